"""Latency, memory and load time, measured in fresh worker processes."""
