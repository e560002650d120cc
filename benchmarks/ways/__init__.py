"""The same training written in several ways. Each file is a program; none but ours.py knows trainctl."""
