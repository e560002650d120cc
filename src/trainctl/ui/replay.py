"""What ``replay`` prints: where the first bad value is, the likely cause, and the modules around it."""

from __future__ import annotations

from typing import TYPE_CHECKING, TextIO

from trainctl.ui.screen import Screen
from trainctl.ui.table import NOTHING, Column, Table

if TYPE_CHECKING:
    from trainctl.analysis.replay import Place, Replay
    from trainctl.analysis.values import Values

_STYLES = {"first": "bold red", "found": "yellow"}


def show(replay: Replay, stream: TextIO | None = None) -> None:
    """Print to ``stream``; in colours on a terminal, unless NO_COLOR is set."""
    screen = Screen(stream)
    screen.line(f"step {replay.step} again; in training, {replay.why}", "bold cyan")
    screen.pairs([*replay.settings, *_findings(replay)], _STYLES)
    if replay.place is not None:
        screen.line()
        styles = ["red" if call is replay.place.call else "" for call in replay.rows]
        screen.table(_table(replay, replay.place), styles, indent=0)


def _findings(replay: Replay) -> list[tuple[str, str]]:
    if replay.place is None:
        return [("found", "nothing: loss and gradients are finite")]
    line = [("line", replay.line)] if replay.line else []
    first = ("first", f"the first value that is not finite is {replay.place.text}")
    return [first, *line, ("likely", replay.likely)]


def _table(replay: Replay, place: Place) -> Table:
    """The calls around the place; that of the place itself is marked."""
    is_backward = place.kind == "backward"
    names = (">", "gradient of" if is_backward else "layer", "class", "shape", "min", "max", "finite")
    columns = tuple(Column(name, right=number > 3) for number, name in enumerate(names))
    rows = (
        (
            ">" if call is place.call else "",
            call.name,
            call.kind,
            *_cells(call.gradient if is_backward else call.outputs),
        )
        for call in replay.rows
    )
    return Table((Column(""), *columns[1:]), tuple(rows))


def _cells(values: Values) -> tuple[str, str, str, str]:
    """Shape, smallest and largest finite value, finite share."""
    if not values.size:
        return (NOTHING,) * 4
    low, high = (NOTHING if each is None else f"{each:.4g}" for each in (values.low, values.high))
    # Rounded down: 100 % would mean all.
    share = f"{int(1000 * (values.size - values.not_finite) / values.size) / 10:g} %"
    finite = "none" if values.low is None else share if values.not_finite else "all"
    return str(values.shape), low, high, finite
