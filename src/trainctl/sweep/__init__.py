"""Many runs: the ledger, the workers, search and fused training.

Imported by ``analysis`` and the rooms above it, and by the launchers and sweepers that Hydra discovers.
"""
