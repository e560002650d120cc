"""What Hydra finds of trainctl. Every Hydra program in the environment imports this: no torch here."""
