"""Trackers: where else the metrics of a run go, one a file."""
