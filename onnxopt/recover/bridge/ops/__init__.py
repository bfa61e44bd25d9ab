"""The operators, one function each; ``registry`` knows which module holds which."""
