"""What each command does, as one Python function that returns a ``Report``; the command line parses and renders."""
