"""Explain one training step, module by module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from trainctl.cli.built_config import built_from
from trainctl.cli.options import CONFIG, OVERRIDES, Command, output_file, write_text
from trainctl.errors import NotFiniteError

if TYPE_CHECKING:
    from trainctl.analysis.trace_report import Trace

COMMAND = Command(
    __name__,
    __doc__,
    (OVERRIDES,),
    (output_file("--html", "write an HTML page, too", "trace.html"), *CONFIG),
    (
        ("The first step of the default config.", "trainctl trace"),
        (
            "The first step of a recipe, as a page.",
            "trainctl trace experiment=digits_cosine --html trace.html",
        ),
    ),
    {3: "", 6: "", 8: ""},
)


def run(words: Sequence[str]) -> int:
    """Take the first training step of a config, show it, and keep nothing of it.

    Raises NotFiniteError (exit 6) after showing it, where the loss, a gradient or a value is not finite;
    StorageError where the page cannot be written; ConfigError as training does.
    """
    asked = COMMAND.parse(words)
    with built_from(asked) as (config, built):
        from trainctl.analysis.trace import trace

        result = trace(built, config)

    from trainctl.ui.trace import show

    show(result, config.display.mode)
    if asked["--html"] is not None:
        from trainctl.ui.trace_page import render

        write_text("--html", asked["--html"], render(result))
    if result.not_finite is not None:
        raise NotFiniteError(result.not_finite, _remedy(result))
    return 0


def _remedy(result: Trace) -> str:
    if result.refused is not None:
        return "no step was taken: check the first module whose output is not finite, and its input"
    return "the table shows where it starts; a smaller learning rate or train.clip_norm=1.0 may help"
