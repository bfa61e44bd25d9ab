"""Is the changed model still right? Task metrics with confidence bounds, drift, verification."""
