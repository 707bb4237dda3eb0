"""Where another implementation parts from this one, and why."""
