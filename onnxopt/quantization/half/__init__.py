"""Models in 16-bit floats."""
