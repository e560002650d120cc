"""Running many jobs."""
