"""The results as a JUnit file, for CI systems: a suite for each config, a test case for each phase."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree

from trainctl.runs import files
from trainctl.runs.secrets import masked
from trainctl.smoke.report import Report, Result

# XML 1.0 has no control characters but these three.
_NO_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write(path: Path, reports: Sequence[Report], seconds: float) -> None:
    """Write ``reports`` to ``path``, whole or not at all. Raises OSError."""
    everything = [result for report in reports for result in report.results]
    root = ElementTree.Element("testsuites", _attributes("trainctl smoke", seconds, everything))
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S")
    for report in reports:
        attributes = _attributes(report.label, report.seconds, report.results)
        skipped = str(sum(each.status == "skipped" for each in report.results))
        suite = ElementTree.SubElement(root, "testsuite", attributes, timestamp=now, skipped=skipped)
        for result in report.results:
            named = {"classname": attributes["name"], "name": result.phase}
            case = ElementTree.SubElement(suite, "testcase", named, time=f"{result.seconds:.3f}")
            reason = _text(result.reason)
            if result.status == "failed":
                ElementTree.SubElement(case, "failure", type=result.phase, message=reason).text = reason
            elif result.status == "skipped":
                ElementTree.SubElement(case, "skipped", message=reason)
        if report.notes:
            ElementTree.SubElement(suite, "system-out").text = _text("\n".join(report.notes))
    ElementTree.indent(root)
    files.replace(path, ElementTree.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n")


def _attributes(name: str, seconds: float, results: Sequence[Result]) -> dict[str, str]:
    failures = sum(each.status == "failed" for each in results)
    counts = {"tests": str(len(results)), "failures": str(failures), "errors": "0"}
    return {"name": _text(name), "time": f"{seconds:.3f}", **counts}


def _text(text: str) -> str:
    return _NO_XML.sub("?", masked(text))
