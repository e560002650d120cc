"""The tutorials: torch's abstractions rebuilt in plain Python (``scratch``), components made of them, and the
rungs of the loop.

The registry finds its members by file name; no other room imports it.
"""
