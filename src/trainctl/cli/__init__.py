"""The command line to a command: the entry point, options, completion and the verbs.

No room imports it.
"""
