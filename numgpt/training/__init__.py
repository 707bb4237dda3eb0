"""From a text to a model: the gradient written out, AdamW, and runs that go on where they were killed."""
