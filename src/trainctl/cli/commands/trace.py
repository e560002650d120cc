"""One training step, explained: trace [KEY=VALUE …] [--html FILE]."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trainctl.cli.built_config import built_from
from trainctl.errors import ConfigError, NotFiniteError, StorageError, nearest

if TYPE_CHECKING:
    from trainctl.analysis.trace_report import Trace

OPTIONS = ("--html", "--config-dir", "--config-name")


@dataclass(frozen=True)
class _Asked:
    """What the words ask for: settings as training takes them, and options with a value each."""

    overrides: tuple[str, ...]
    html: Path | None
    config_dir: str | None
    config_name: str | None


def run(words: Sequence[str]) -> int:
    """Take the first training step of the config that ``words`` make, show it, and keep nothing of it.

    Raises NotFiniteError (exit 6) after showing it, where the loss, a gradient or a value is not finite;
    StorageError where the page cannot be written; ConfigError as training does.
    """
    asked = _parse(words)
    if asked.html is not None:
        _check_place(asked.html)
    with built_from(asked.overrides, asked.config_dir, asked.config_name) as (config, built):
        from trainctl.analysis.trace import trace

        result = trace(built, config)

    from trainctl.ui.trace import show

    show(result, config.display.mode)
    if asked.html is not None:
        _write(asked.html, result)
    if result.not_finite is not None:
        raise NotFiniteError(result.not_finite, _remedy(result))
    return 0


def training_words(typed: Sequence[str]) -> list[str]:
    """The words of a line that is being typed, as they would be without the verb and ``--html FILE``."""
    left, kept = list(typed[1:]), []
    while left:
        word = left.pop(0)
        if word == "--html" and left:
            left = left[1:] or [""]
        elif not word.startswith("--html=") or not left:
            kept.append(word)
    return kept


def _parse(words: Sequence[str]) -> _Asked:
    overrides: list[str] = []
    options: dict[str, str] = {}
    left = list(words)
    while left:
        word = left.pop(0)
        if not word.startswith("-"):
            overrides.append(word)
            continue
        name, equals, value = word.partition("=")
        if name not in OPTIONS:
            close = nearest(name, OPTIONS)
            remedy = f"did you mean {close}? " if close else ""
            raise ConfigError(f"{name}: trace has no such option", f"{remedy}there are: {', '.join(OPTIONS)}")
        if not equals and left:
            value = left.pop(0)
        if not value:
            raise ConfigError(f"{name}: needs a value", f"trainctl trace {name} …")
        options[name] = value
    html = options.get("--html")
    return _Asked(
        tuple(overrides),
        None if html is None else Path(html).expanduser(),
        options.get("--config-dir"),
        options.get("--config-name"),
    )


def _check_place(page: Path) -> None:
    """Before the step, which may take long: raise ConfigError for a folder, StorageError without one."""
    if page.is_dir():
        raise ConfigError(f"--html {page}: is a folder", f"name a file in it: --html {page / 'trace.html'}")
    if not page.parent.is_dir():
        raise StorageError(f"--html {page}: there is no folder {page.parent}", "make it, or name another")


def _write(page: Path, result: Trace) -> None:
    from trainctl.ui.trace_page import render

    try:
        page.write_bytes(render(result).encode("utf-8", "replace"))
    except OSError as error:
        raise StorageError(
            f"--html {page}: cannot be written: {error.strerror or error}", "name another file"
        ) from error


def _remedy(result: Trace) -> str:
    if result.refused is not None:
        return "no step was taken: look at the first module whose output is not finite, and what goes into it"
    return "the table shows where it begins; a smaller learning rate or train.clip_norm=1.0 may help"
