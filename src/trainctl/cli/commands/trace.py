"""Explain one training step: trace [KEY=VALUE …] [--html FILE]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from trainctl.cli.built_config import built_from
from trainctl.cli.options import CONFIG, output_file, sort, write_text
from trainctl.errors import NotFiniteError

if TYPE_CHECKING:
    from trainctl.analysis.trace_report import Trace

OPTIONS = {"--html": "FILE", **CONFIG}


def run(words: Sequence[str]) -> int:
    """Take the first training step of a config, show it, and keep nothing of it.

    Raises NotFiniteError (exit 6) after showing it, where the loss, a gradient or a value is not finite;
    StorageError where the page cannot be written; ConfigError as training does.
    """
    overrides, given, _ = sort("trace", words, OPTIONS, ())
    html = output_file("--html", given["--html"], "trace.html") if "--html" in given else None
    with built_from(overrides, given) as (config, built):
        from trainctl.analysis.trace import trace

        result = trace(built, config)

    from trainctl.ui.trace import show

    show(result, config.display.mode)
    if html is not None:
        from trainctl.ui.trace_page import render

        write_text("--html", html, render(result))
    if result.not_finite is not None:
        raise NotFiniteError(result.not_finite, _remedy(result))
    return 0


def training_words(typed: Sequence[str]) -> list[str]:
    """The words of a line that is being typed, without the verb and ``--html FILE``."""
    left, kept = list(typed[1:]), []
    while left:
        word = left.pop(0)
        if word == "--html" and left:
            left = left[1:] or [""]
        elif not word.startswith("--html=") or not left:
            kept.append(word)
    return kept


def _remedy(result: Trace) -> str:
    if result.refused is not None:
        return "no step was taken: check the first module whose output is not finite, and its input"
    return "the table shows where it starts; a smaller learning rate or train.clip_norm=1.0 may help"
