"""The reliability gate: ways in which runs get lost, each tried out. ``make test-reliability``."""
