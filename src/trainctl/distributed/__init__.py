"""The processes of one run; the only room that names torch.distributed and what its launchers set.

Imported by ``training`` and the rooms above it.
"""
