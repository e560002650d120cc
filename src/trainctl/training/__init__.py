"""One run: the loop, its state, the steps, the hooks, and what builds, trains and resumes them.

Imported by ``lessons`` and the rooms above it.
"""
