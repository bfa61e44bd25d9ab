"""Several models in one file: alignment, ways to combine them, shared work."""
