"""Compared runs as files: CSV for a spreadsheet, JSON for a program."""

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
    """The whole comparison; values that are not finite are null.

    ``{"version": 1, "groups": [{"monitor", "columns", "rows": […], "findings"}], "others": […], "notes"}``
    """
    content = {
        "version": VERSION,
        "groups": [
            {
                "monitor": _monitor(group, "name"),
                "about": group.about,
                "columns": list(group.columns),
                "rows": [_row(row) for row in group.rows],
                "findings": list(group.findings),
            }
            for group in comparison.groups
        ],
        "others": [_other(other, comparison) for other in comparison.others],
        "notes": list(comparison.notes),
    }
    return json.dumps(_plain(content), indent=2, allow_nan=False, default=str) + "\n"


def to_csv(comparison: Comparison) -> str:
    """A line for each setting, the best first, then one for each unranked run; lists have spaces between."""
    text = io.StringIO()
    columns = ["rank", "state", *comparison.columns, *_MEASURED]
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for group in comparison.groups:
        for row in group.rows:
            values, runs = _row(row), [_run(run) for run in row.runs]
            best = {"step": runs[0]["step"], "parameters": runs[0]["parameters"]}
            lists = {
                "seeds": [run["seed"] for run in runs],
                "values": [run["value"] for run in runs],
                "runs": [run["directory"] for run in runs],
            }
            settings = _settings(row.runs[0], comparison)
            writer.writerow(
                _cells({"state": "done", **settings, **values, **best, **_monitor(group, "monitor"), **lists})
            )
    for other in comparison.others:
        values = _other(other, comparison)
        more = {"seeds": values["seed"], "runs": values["directory"]}
        writer.writerow(_cells({**values, **values["settings"], **more}))
    return text.getvalue()


def _monitor(group: Group, name: str) -> dict[str, Any]:
    return {name: group.monitor.name, "lower_is_better": group.monitor.lower_is_better}


def _cells(values: dict[str, Any]) -> dict[str, str]:
    return {key: _cell(value) for key, value in values.items()}


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return " ".join(map(_cell, value)) if isinstance(value, list) else show(value)


def _row(row: Row) -> dict[str, Any]:
    return {
        "rank": row.rank,
        "settings": {key: None if value is ABSENT else value for key, value in row.settings.items()},
        "mean": row.mean,
        "std": row.deviation,
        "n": len(row.values),
        **{key: getattr(row, key) for key in ("unfinished", "p", "p_holm", "seconds", "training_seconds")},
        "runs": [_run(run) for run in row.runs],
    }


def _run(run: Entry) -> dict[str, Any]:
    return {
        "directory": str(run.directory),
        "name": run.name or None,
        "seed": run.settings.get("seed"),
        **({} if (fold := run.settings.get("dataset.fold")) is None else {"fold": fold}),
        **{key: getattr(run, key) for key in ("value", "step", "parameters", "seconds", "training_seconds")},
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
