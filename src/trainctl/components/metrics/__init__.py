"""Metrics, one a file: sums and counts over a whole split, exact for any last batch."""
