"""A trained run used: load, evaluate, predict, export.

Imported by ``sweep`` and the rooms above it.
"""
