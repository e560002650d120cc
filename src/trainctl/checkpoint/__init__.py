"""A run's state to bytes and back: snapshot, format, retention, store.

Imported by ``training`` and the rooms above it.
"""
