"""Ways to decode beyond the plain loop: several texts at once, guesses that are checked in one pass."""
