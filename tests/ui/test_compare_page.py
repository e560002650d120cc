"""The page of ``trainctl compare --html`` in a real browser: it sorts, draws, points, and asks nobody."""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest

from tests.helpers.page import Page
from trainctl.analysis.discovery import Entry, Monitor
from trainctl.analysis.ranking import Comparison, rank
from trainctl.ui.compare_page import render

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
EVIL = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)>&\"'"
VALUES = {0.5: 0.70, 2.0: 0.90, 10.0: 0.80, 0.001: 0.60}


def entry(folder: Path, lr: float, seed: int, value: float, steps: int = 3000, name: str = "") -> Entry:
    """A run with a course on the disk."""
    folder.mkdir(parents=True)
    draw = random.Random(lr + seed)
    lines = [
        {"step": step, "epoch": 1, "train/loss": 2.0 / step + draw.random(), "lr": lr}
        for step in range(1, steps + 1)
    ]
    evaluations = [
        {"step": steps * n // 4, "epoch": n, "val/loss": 1.0 / n, "val/accuracy": value * n / 4}
        for n in (1, 2, 3, 4)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines + evaluations))
    settings = {"seed": seed, "model.name": "mlp", "optim.name": "adam", "optim.lr": lr}
    return Entry(
        folder,
        "done",
        name,
        settings,
        0,
        monitor=Monitor("val/accuracy", False),
        value=value,
        step=steps,
        parameters=1000,
        seconds=90.0 + seed,
    )


@pytest.fixture
def comparison(tmp_path: Path) -> Comparison:
    runs = [
        entry(tmp_path / f"{lr}-{seed}", lr, seed, value + seed / 100)
        for lr, value in VALUES.items()
        for seed in (1, 2)
    ]
    settings = {"seed": 3, "model.name": EVIL}
    bad = Entry(tmp_path / "bad", "failed", EVIL, settings, 6, f"the loss is {EVIL}")
    return rank([*runs, bad])


def test_needs_nothing_from_elsewhere(comparison: Comparison) -> None:
    html = render(comparison)
    parsed = Page(html)
    assert parsed.references == ["data:,"]
    without_namespace = html.replace("http://www.w3.org/2000/svg", "")
    assert re.search(r"https?:|@import|url\(|fetch\(|XMLHttpRequest|import\(", without_namespace) is None
    assert "default-src &#39;none&#39;" in html or "default-src 'none'" in html
    assert "prefers-color-scheme: dark" in html
    assert 'name="viewport"' in html


def test_the_names_of_others_are_text(comparison: Comparison) -> None:
    parsed = Page(render(comparison))
    assert parsed.tags.count("script") == 2
    assert "img" not in parsed.tags
    assert any(EVIL in cell for row in parsed.rows for cell in row)


def test_the_curves_in_it_are_thinned_and_keep_their_extremes(comparison: Comparison) -> None:
    html = render(comparison)
    text = re.search(r'id="curves">(.*?)</script>', html, re.DOTALL)
    assert text is not None
    curves = json.loads(text[1])
    assert [len(each["runs"]) for each in curves] == [2, 2, 2, 2, 1]
    steps, losses = curves[0]["runs"][0]["train"]
    assert 300 <= len(steps) == len(losses) <= 600
    assert (steps[0], steps[-1]) == (1, 3000)
    assert curves[0]["runs"][0]["val"]["val/accuracy"][0] == [750, 1500, 2250, 3000]
    assert len(html) < 300_000


def in_browser(html: str, script: str, tmp_path: Path) -> tuple[Page, str]:
    """The page after ``script`` ran in it, parsed, and the text that the script left in ``#result``."""
    if BROWSER is None:
        pytest.skip("no chromium is installed")
    ending = f'<pre id="result"></pre><script>"use strict";{{ {script} }}</script></body>'
    page = tmp_path / "page.html"
    page.write_text(html.replace("</body>", ending))
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0"]
    done = subprocess.run(
        [
            BROWSER,
            *options,
            "--window-size=1200,1000",
            "--dump-dom",
            f"--user-data-dir={tmp_path / 'profile'}",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0
    assert "CONSOLE" not in done.stderr
    result = re.search(r'<pre id="result">(.*?)</pre>', done.stdout, re.DOTALL)
    assert result is not None
    return Page(done.stdout), unescape(result[1])


CLICK = """
const click = (name) => [...document.querySelectorAll("thead button")]
  .find((each) => each.textContent === name).click();
const say = (value) => { document.getElementById("result").textContent += JSON.stringify(value) + "\\n"; };
"""


def test_opens_with_the_table_as_it_was_and_curves_drawn(comparison: Comparison, tmp_path: Path) -> None:
    html = render(comparison)
    page, result = in_browser(html, CLICK + "say(document.title);", tmp_path)
    assert json.loads(result) == "9 runs compared"
    assert page.column("lr", len(VALUES)) == ["2.0", "10.0", "0.5", "0.001"]
    assert [row[1:] for row in page.rows] == [row[1:] for row in Page(html).rows]
    paths = page.attributes["path"]
    # Two seeds of four settings, a thin line and a thick one each; the failed run has no course.
    assert [path["class"] for path in paths].count("train") == 8
    assert [path["class"] for path in paths].count("val") == 8
    assert all(path["d"].count("L") > 250 for path in paths if path["class"] == "train")
    assert len({path["style"] for path in paths}) == 4


@pytest.mark.parametrize(
    ("clicks", "column", "expected"),
    [
        pytest.param(("lr",), "lr", ["0.001", "0.5", "2.0", "10.0"], marks=pytest.mark.slow),
        pytest.param(("lr", "lr"), "lr", ["10.0", "2.0", "0.5", "0.001"], marks=pytest.mark.slow),
        (("lr", "lr", "lr"), "lr", ["0.001", "0.5", "2.0", "10.0"]),
        (("val/accuracy",), "#", ["4", "3", "2", "1"]),
        pytest.param(("lr", "#"), "#", ["1", "2", "3", "4"], marks=pytest.mark.slow),
    ],
)
def test_a_click_on_a_heading_sorts_by_number(
    clicks: tuple[str, ...], column: str, expected: list[str], comparison: Comparison, tmp_path: Path
) -> None:
    script = CLICK + "".join(f"click({json.dumps(name)});" for name in clicks)
    page, _ = in_browser(render(comparison), script, tmp_path)
    assert page.column(column, len(VALUES)) == expected
    (sorted_by,) = [each for each in page.attributes["th"] if "aria-sort" in each]
    assert sorted_by["aria-sort"] == (
        "descending" if len(clicks) == 2 and clicks[0] == clicks[1] else "ascending"
    )


def test_boxes_choices_and_pointing(comparison: Comparison, tmp_path: Path) -> None:
    script = (
        CLICK
        + """
    const paths = () => document.querySelectorAll("#plot path").length;
    const pick = (id, change) => {
      const node = document.getElementById(id);
      change(node);
      node.dispatchEvent(new Event("change"));
    };
    say(paths());
    document.querySelector('input[data-curve="0"]').click();
    say(paths());
    document.querySelector('button[data-show="none"]').click();
    say([paths(), document.getElementById("plot").textContent]);
    document.querySelector('button[data-show="all"]').click();
    say(paths());
    say([...document.getElementById("what").options].map((each) => each.value));
    pick("what", (node) => { node.value = "val/accuracy"; });
    say(paths());
    pick("log", (node) => { node.checked = true; });
    say(paths());
    const svg = document.getElementById("plot"), path = svg.querySelector('path[data-curve="0"]');
    const end = path.getPointAtLength(path.getTotalLength()), area = svg.getBoundingClientRect();
    const at = { clientX: area.left + end.x, clientY: area.top + end.y };
    svg.dispatchEvent(new PointerEvent("pointermove", at));
    const tip = document.getElementById("tip");
    say([tip.hidden, tip.textContent, svg.classList.contains("pointing"), path.classList.contains("at")]);
    svg.dispatchEvent(new PointerEvent("pointerleave"));
    say(tip.hidden);
    """
    )
    _, result = in_browser(render(comparison), script, tmp_path)
    said = [json.loads(line) for line in result.splitlines()]
    assert said[:2] == [16, 12]
    assert said[2] == [0, "nothing to draw: choose runs in the table"]
    assert said[3] == 16
    assert said[4] == ["loss", "train", "val/accuracy", "val/loss"]
    assert said[5:7] == [8, 8]
    hidden, tip, pointing, at = said[7]
    assert (hidden, pointing, at) == (False, True, True)
    assert re.fullmatch(r"lr=2\.0, seed [12]: step 3,000, val/accuracy 0\.9[12]", tip)
    assert said[8] is True


def test_runs_without_a_course_make_a_page_without_a_picture(tmp_path: Path) -> None:
    settings = {"seed": 1, "model.name": "mlp"}
    bad = Entry(tmp_path / "bad", "failed", "", settings, 6, "the loss is nan")
    html = render(rank([bad]))
    page, _ = in_browser(html, CLICK + 'click("state");', tmp_path)
    assert "svg" not in page.tags
    assert "nothing to rank" in html
    in_browser(render(Comparison(())), "", tmp_path)
