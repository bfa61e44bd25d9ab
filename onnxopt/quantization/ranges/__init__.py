"""Ranges of activations from calibration data: mergeable statistics, who collects them, calibrators."""
