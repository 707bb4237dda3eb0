"""Pages for a browser: what a model makes of a text, to look at."""
