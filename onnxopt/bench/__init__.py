"""Is the changed model really faster? Paired measurement in fresh processes."""
