"""One rule for each operator: how the channel ids of what it reads and of what it makes go together."""
