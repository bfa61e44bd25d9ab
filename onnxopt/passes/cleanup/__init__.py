"""Passes that remove what a graph does not need; outputs stay bit for bit what they were."""
