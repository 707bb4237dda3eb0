"""Names to paths: what is known, where it lies on this machine, how it is fetched."""
