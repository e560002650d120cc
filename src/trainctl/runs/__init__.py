"""The run directory: making and locking it, its record ``run.json``, ``metrics.jsonl``, files
that appear whole.

Imported by every room above it.
"""
