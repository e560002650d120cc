"""Datasets, one a file. A builder returns a `trainctl.data.Data`."""
