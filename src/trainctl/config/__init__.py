"""YAML files and command-line overrides to one frozen Config. The only room that imports Hydra and OmegaConf,
the launchers of ``sweep`` aside.

Imported by ``training`` and the rooms above it.
"""
