"""Passes that fold neighbouring linear operators into the weights of one."""
