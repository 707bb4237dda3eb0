"""Files to models and back: one module a format, one table of formats. It knows paths, and no names of models."""
