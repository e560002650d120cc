"""Finished runs and single steps: discovery, ranking, significance, curves, trace, anomalies, replay, verify
and the learning-rate range test.

Imported by ``smoke``, ``ui`` and ``cli``.
"""
