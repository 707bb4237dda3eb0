"""A model from a text: the gradient, the optimiser, the run."""
