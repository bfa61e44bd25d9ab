"""Are these data fit to calibrate this model on? One question a file, each answered by an ``Answer``."""
