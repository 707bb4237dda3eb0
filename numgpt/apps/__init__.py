"""What GPT-2 is used for: each a short function over `generate`."""
