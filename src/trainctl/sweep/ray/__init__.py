"""The jobs of a sweep on a Ray cluster. The package ray is imported when it is asked for."""
