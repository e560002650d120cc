"""The verbs of the command line, one a file; the first line of each docstring is its help."""
