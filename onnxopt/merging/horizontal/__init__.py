"""Members of one architecture side by side: one operator computes what each of them computes with its own weights."""
