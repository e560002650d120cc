"""Writes the pages of the documentation site: those of docs/, and what is made from the code.

    python docs/pages.py FOLDER

The README is the first page, each config group has one with arguments, types, defaults and files, `api.md`
lists the public names, `examples.md` shows pages that the program makes of runs, trained for it, and
source files that a page links to are shown. Links of the repository become links
of the site, so that the strict build finds a wrong one. Any generator can build the folder; mkdocs.yml is for
MkDocs.
"""

from __future__ import annotations

import importlib
import inspect
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from trainctl.cli.commands.ls import row, summary
from trainctl.config.options import component_of, find_members
from trainctl.registry import COMPONENTS, METRICS, TRACKERS
from trainctl.registry.signature import Signature

ROOT = Path(__file__).parents[1]
_LINK = re.compile(r"(\]\()([^)#:\s]+)((?:#[^)\s]*)?\))")
_FENCE = re.compile(r"(^(?:````|```).*?^(?:````|```)$)", re.DOTALL | re.MULTILINE)
_PLACES = {
    "README.md": "index.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "benchmarks/RESULTS.md": "benchmarks/RESULTS.md",
}
_PUBLIC = ("trainctl", "trainctl.registry", "trainctl.data", "trainctl.components.tasks")
_TRACKER = "trainctl.components.trackers._base.Tracker"
# The file that the last command writes, what it is, and the page about it.
_EXAMPLES = {
    "compare.html": (
        "Settings compared",
        "comparing.md",
        "trainctl -m optim=sgd lr=3e-1,1e-1,3e-2 seed=1,2,3 epochs=5 threads=1 hydra.sweep.dir=sweep",
        "trainctl compare sweep --html compare.html",
    ),
    "trace.html": ("A step explained", "rungs.md", "trainctl trace model=cnn --html trace.html"),
}


def write(folder: Path) -> None:
    """Write all pages into ``folder``, which is made anew."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, text in site().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    for file in (ROOT / "docs").glob("*.*"):
        if file.suffix not in (".md", ".py"):
            shutil.copy(file, folder)
    write_examples(folder / "examples")


def site() -> dict[str, str]:
    """Every page of the site by its name."""
    found = {f"docs/{path.name}": path.name for path in (ROOT / "docs").glob("*.md")} | _PLACES
    written = {page: ((ROOT / home).read_text(encoding="utf-8"), home) for home, page in found.items()}
    made = {**dict(group_pages()), "api.md": api_page(), "examples.md": examples_page()}
    # A made page has its links as if it lay in docs/.
    written |= {page: (text, f"docs/{page}") for page, text in made.items()}
    sources = {each for text, home in written.values() for each in linked_sources(text, home)}
    written |= {
        f"source/{each}.md": (source_page(each), f"{each}/x" if (ROOT / each).is_dir() else each)
        for each in sources
    }
    return {page: linked(text, home, page) for page, (text, home) in written.items()}


def linked(text: str, home: str, page: str) -> str:
    """A page whose links lead to pages of the site; ``home`` is its place in the repository."""

    def led(found: re.Match[str]) -> str:
        target = on_site(home, found[2])
        leads = os.path.relpath(target, PurePosixPath(page).parent) if target else found[2]
        return f"{found[1]}{leads}{found[3]}"

    parts = _FENCE.split(text)
    return "".join(part if part.startswith("```") else _LINK.sub(led, part) for part in parts)


def in_repository(home: str, target: str) -> str | None:
    """The path in the repository that a link leads to; None for one that leads to nothing there."""
    path = Path(os.path.normpath((ROOT / home).parent / target))
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) and path.exists() else None


def on_site(home: str, target: str) -> str | None:
    """The page, or the picture, of the site that a link leads to; None where it is the site's already."""
    found = in_repository(home, target)
    if found is None or found in _PLACES:
        return _PLACES.get(found or "")
    return found.removeprefix("docs/") if found.startswith("docs/") else f"source/{found}.md"


def linked_sources(text: str, home: str) -> Iterator[str]:
    """The files and folders of the repository that a page links to, and the files of such a folder."""
    for _, target, _ in _LINK.findall(_FENCE.sub("", text)):
        found = in_repository(home, target)
        if found is not None and (on_site(home, target) or "").startswith("source/"):
            yield found
            yield from (f"{found}/{path.name}" for path in (ROOT / found).glob("*.py"))


def source_page(target: str) -> str:
    """A file of the repository, or the files of a folder."""
    path = ROOT / target
    if path.is_dir():
        lines = [f"- [{each.name}]({each.name})" for each in sorted(path.glob("*.py"))]
        return f"# {target}\n\n" + "\n".join(lines) + "\n"
    language = "python" if path.suffix == ".py" else "text"
    return f"# {target}\n\n````{language}\n{path.read_text(encoding='utf-8')}````\n"


# ------------------------------------------------------------------- config groups


def group_pages() -> Iterator[tuple[str, str]]:
    """A page of each config group: its options, and the arguments of each with types and defaults."""
    groups = find_members()
    listed = [f"| [`{group}`]({group}.md) | {', '.join(members)} |" for group, members in groups.items()]
    head = "# Groups and options\n\nWhat `trainctl ls` lists: `trainctl GROUP=OPTION`.\n\n"
    yield "options/index.md", f"{head}| group | options |\n|---|---|\n" + "\n".join(listed) + "\n"
    for group, members in groups.items():
        table = "".join(
            f"| [`{name}`](#{anchor(name)}) | {cell(summary(group, name, path))} |\n"
            for name, path in members.items()
        )
        sections = "".join(_option(group, name, path) for name, path in members.items())
        yield f"options/{group}.md", f"# {group}\n\n| option | what |\n|---|---|\n{table}\n{sections}"


def _option(group: str, name: str, path: Path | None) -> str:
    head = f"## {name} {{ #{anchor(name)} }}\n\n"
    if path is None:
        signature = METRICS.signature(name)
        return head + _component(
            signature, [row(each.name, each, each.default) for each in signature.parameters]
        )
    if (found := component_of(group, name, path)) is None:
        return f"{head}```yaml\n{path.read_text(encoding='utf-8').rstrip()}\n```\n\n"
    prefix, signature, values = found
    rows = [
        row(f"{prefix}.{each.name}", each, values.get(each.name, each.default))
        for each in signature.parameters
    ]
    registry = TRACKERS if group == TRACKERS.group else COMPONENTS[group]
    path = registry.file(str(values.get("name", name)))
    file = "" if path is None else path.relative_to(ROOT).as_posix()
    source = f"Source: [`{file}`](../../{file})\n\n" if file else ""
    return head + _component(signature, rows) + source


def _component(signature: Signature, rows: list[tuple[str, str, str]]) -> str:
    text, meanings = documented(signature.doc)
    if not rows:
        return text
    table = "".join(
        f"| `{key}` | `{cell(value)}` | {cell(kind)} | {cell(meanings.get(key.rpartition('.')[2], ''))} |\n"
        for key, value, kind in rows
    )
    return f"{text}| argument | default | type | meaning |\n|---|---|---|---|\n{table}\n"


def documented(doc: str) -> tuple[str, dict[str, str]]:
    """A docstring's paragraphs, and the meaning of each argument from the section ``Args:``."""
    text, _, rest = inspect.cleandoc(doc).partition("\nArgs:\n")
    indented = re.match(r"(?:    .*\n|\n)*(?:    .*)?", rest)
    arguments = "" if indented is None else indented[0]
    meanings = {
        name: " ".join(meaning.split())
        for name, meaning in re.findall(r"^ {4}(\w+): (.*(?:\n {5,}.*)*)", arguments, re.MULTILINE)
    }
    return f"{text.strip()}\n\n{rest[len(arguments) :].strip()}\n\n", meanings


def anchor(name: str) -> str:
    """The place of an option on its page."""
    return re.sub(r"[^a-z0-9_]+", "-", name.lower())


def cell(text: str) -> str:
    """Text in a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


# ------------------------------------------------------------------- examples


def examples_page() -> str:
    """The commands of the examples, and what they write in frames."""
    sections = "".join(
        f"## {title}\n\n```text\n" + "\n".join(commands) + "\n```\n\n"
        f'<iframe src="examples/{name}" title="{title}" loading="lazy" style="width: 100%; height: 40em;'
        f' border: 1px solid #8888"></iframe>\n\n[This page alone](examples/{name}) · [about it]({about})\n\n'
        for name, (title, about, *commands) in _EXAMPLES.items()
    )
    return f"# Examples\n\nPages of real runs, made with this site.\n\n{sections}"


def write_examples(folder: Path) -> None:
    """Run the commands of the examples, and keep the pages that they write."""
    folder.mkdir()
    for name, (_, _, *commands) in _EXAMPLES.items():
        with tempfile.TemporaryDirectory() as runs:
            for command in commands:
                words = [sys.executable, "-m", *shlex.split(command)]
                subprocess.run(words, cwd=runs, stdout=subprocess.DEVNULL, check=True)
            shutil.copy(Path(runs, name), folder)


# ------------------------------------------------------------------- API


def api_page() -> str:
    """The public names, from their docstrings."""
    sections = "".join(f"## {module}\n\n{_names(module)}\n" for module in _PUBLIC)
    return (
        "# Public names\n\nAll others may change with any version"
        " ([components of your own](components.md#public-names)).\n\n"
        f"{sections}## A tracker\n\n::: {_TRACKER}\n"
    )


def _names(module: str) -> str:
    names = [name for name in importlib.import_module(module).__all__ if name != "__version__"]
    return "".join(f"::: {module}.{name}\n" for name in names)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
