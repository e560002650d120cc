"""What is on a page of HTML, without a browser."""

from __future__ import annotations

from html.parser import HTMLParser

_VOID = ("meta", "link", "br", "hr", "img", "input")


class Page(HTMLParser):
    """Tags, what they refer to, and the text of the cells by row.

    Attributes:
        open: tags that were not closed, and closing ones that closed nothing.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []
        self.tags: list[str] = []
        self.rows: list[list[str]] = []
        self.attributes: dict[str, list[dict[str, str]]] = {}
        self._in_cell = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        self.attributes.setdefault(tag, []).append(given)
        self.references += [given[name] for name in ("src", "href", "srcset", "action") if name in given]
        if tag not in _VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        if self.open[-1:] == [tag]:
            self.open.pop()
        else:
            self.open.append(f"/{tag}")
        if tag in ("td", "th"):
            self._in_cell = False

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.rows[-1][-1] += data

    def column(self, name: str, rows: int) -> list[str]:
        """The cells of so many rows under a heading, where it comes first."""
        heading = next(row for row in self.rows if name in row)
        at, first = heading.index(name), self.rows.index(heading) + 1
        return [row[at] for row in self.rows[first : first + rows]]
