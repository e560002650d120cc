"""The results as a JUnit file, which CI systems show: a test case for each config and phase."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree

from trainctl.runs import files
from trainctl.smoke.report import Report, Result

# XML 1.0 has no control characters but these three.
_NO_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write(path: Path, reports: Sequence[Report], seconds: float) -> None:
    """Write ``reports`` to ``path``, whole or not at all. Raises OSError.

    The class name is the config, the name the phase; each config is a suite.
    """
    everything = [result for report in reports for result in report.results]
    named = {"name": "trainctl smoke", "time": f"{seconds:.3f}"}
    root = ElementTree.Element("testsuites", named | _counts(everything))
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S")
    for report in reports:
        named = {"name": _text(report.label), "time": f"{report.seconds:.3f}", "timestamp": now}
        skipped = {"skipped": str(sum(each.status == "skipped" for each in report.results))}
        suite = ElementTree.SubElement(root, "testsuite", named | _counts(report.results) | skipped)
        for result in report.results:
            case = ElementTree.SubElement(
                suite,
                "testcase",
                classname=_text(report.label),
                name=result.phase,
                time=f"{result.seconds:.3f}",
            )
            if result.status == "failed":
                failure = ElementTree.SubElement(
                    case, "failure", type=result.phase, message=_text(result.reason)
                )
                failure.text = _text(result.reason)
            elif result.status == "skipped":
                ElementTree.SubElement(case, "skipped", message=_text(result.reason))
        if report.notes:
            ElementTree.SubElement(suite, "system-out").text = _text("\n".join(report.notes))
    ElementTree.indent(root)
    files.replace(path, ElementTree.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n")


def _counts(results: Sequence[Result]) -> dict[str, str]:
    failures = sum(each.status == "failed" for each in results)
    return {"tests": str(len(results)), "failures": str(failures), "errors": "0"}


def _text(text: str) -> str:
    return _NO_XML.sub("?", text)
