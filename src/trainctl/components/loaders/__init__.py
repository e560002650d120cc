"""How batches reach the loop."""
