"""Other forms of the same computation, for what has a better kernel in that form."""
