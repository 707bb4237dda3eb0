"""All that `numgpt.generate` does beyond the loop."""
