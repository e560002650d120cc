"""Trackers, one a file: they send the metrics of a run to another program."""
