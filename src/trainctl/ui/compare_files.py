"""Compared runs for other programs: CSV for a spreadsheet, JSON for code."""

from __future__ import annotations

import csv
import io
import json
import math
from typing import Any

from trainctl.analysis.discovery import Entry
from trainctl.analysis.ranking import ABSENT, Comparison, Group, Other, Row, setting
from trainctl.registry.constraints import show

VERSION = 1
_MEASURED = (
    "monitor",
    "lower_is_better",
    "mean",
    "std",
    "n",
    "unfinished",
    "p",
    "p_holm",
    "seconds",
    "training_seconds",
    "step",
    "parameters",
    "seeds",
    "values",
    "runs",
    "exit_code",
    "reason",
)


def to_json(comparison: Comparison) -> str:
    """The whole comparison; what is not finite is null.

    ``{"version": 1, "groups": [{"monitor", "columns", "rows": […], "findings"}], "others": […], "notes"}``
    """
    content = {
        "version": VERSION,
        "groups": [
            {
                "monitor": {"name": group.monitor.name, "lower_is_better": group.monitor.lower_is_better},
                "about": group.about,
                "columns": list(group.columns),
                "rows": [_row(row, group) for row in group.rows],
                "findings": list(group.findings),
            }
            for group in comparison.groups
        ],
        "others": [_other(other, comparison) for other in comparison.others],
        "notes": list(comparison.notes),
    }
    return json.dumps(_plain(content), indent=2, allow_nan=False, default=str) + "\n"


def to_csv(comparison: Comparison) -> str:
    """A line a setting, the best first, then a line a run that is not ranked; lists have spaces between."""
    text = io.StringIO()
    writer = csv.DictWriter(
        text, ["rank", "state", *comparison.columns, *_MEASURED], extrasaction="ignore", lineterminator="\n"
    )
    writer.writeheader()
    for group in comparison.groups:
        for row in group.rows:
            measured = _row(row, group)
            runs = measured.pop("runs")
            lists = {
                "seeds": [run["seed"] for run in runs],
                "values": [run["value"] for run in runs],
                "runs": [run["directory"] for run in runs],
            }
            settings = _settings(row.runs[0], comparison)
            best = {key: runs[0][key] for key in ("step", "parameters")}
            monitor = {"monitor": group.monitor.name, "lower_is_better": group.monitor.lower_is_better}
            writer.writerow(_cells({"state": "done", **settings, **measured, **best, **monitor, **lists}))
    for other in comparison.others:
        values = _other(other, comparison)
        writer.writerow(
            _cells(
                {**values, **values["settings"], "seeds": values["seed"], "runs": values["directory"]},
            )
        )
    return text.getvalue()


def _cells(values: dict[str, Any]) -> dict[str, str]:
    return {key: _cell(value) for key, value in values.items()}


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return " ".join(map(_cell, value)) if isinstance(value, list) else show(value)


def _row(row: Row, group: Group) -> dict[str, Any]:
    return {
        "rank": row.rank,
        "settings": {key: None if value is ABSENT else value for key, value in row.settings.items()},
        "mean": row.mean,
        "std": row.deviation,
        "n": len(row.values),
        "unfinished": row.unfinished,
        "p": row.p,
        "p_holm": row.p_holm,
        "seconds": row.seconds,
        "training_seconds": row.training_seconds,
        "runs": [
            {
                "directory": str(run.directory),
                "name": run.name or None,
                "seed": run.settings.get("seed"),
                "value": run.value,
                "step": run.step,
                "parameters": run.parameters,
                "seconds": run.seconds,
                "training_seconds": run.training_seconds,
            }
            for run in row.runs
        ],
    }


def _other(other: Other, comparison: Comparison) -> dict[str, Any]:
    entry = other.entry
    return {
        "directory": str(entry.directory),
        "state": entry.state,
        "exit_code": entry.exit_code,
        "reason": other.why or None,
        "name": entry.name or None,
        "settings": _settings(entry, comparison) if entry.settings else {},
        "seed": entry.settings.get("seed"),
        "step": entry.step,
        "parameters": entry.parameters,
        "seconds": entry.seconds,
    }


def _settings(entry: Entry, comparison: Comparison) -> dict[str, Any]:
    """The settings that vary; null, in CSV an empty cell, for one that the run does not have."""
    values = {key: setting(entry, key) for key in comparison.columns}
    return {
        key: None if value is ABSENT else show(value) if isinstance(value, list | tuple) else value
        for key, value in values.items()
    }


def _plain(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
