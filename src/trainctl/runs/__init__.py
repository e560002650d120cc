"""The run directory: making and locking it, its record ``run.json``, ``metrics.jsonl``, files
that appear whole, filesystems behind URLs.

Imported by every room above it.
"""
