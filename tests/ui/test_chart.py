"""Curves as characters."""

from __future__ import annotations

from trainctl.ui.chart import Area, draw

COLOURS = ("green", "cyan")


def text(rows: list[list[tuple[str, str]]]) -> list[str]:
    return ["".join(character for character, _ in row) for row in rows]


def test_lines_go_from_end_to_end_and_the_first_curve_is_in_front() -> None:
    area = Area(0, 10, 0.0, 1.0, columns=5, rows=3)
    rising, level = [(0, 0.0), (10, 1.0)], [(0, 0.5), (10, 0.5)]
    drawn = text(draw([[rising], [level]], area, "ab", COLOURS))
    assert drawn[0].rstrip().endswith("a")
    assert drawn[2].startswith("a")
    assert drawn[1][0] == drawn[1][-1] == "b"
    assert "a" in drawn[1]


def test_dots_have_the_colour_of_their_curve() -> None:
    area = Area(0, 1, 0.0, 1.0, columns=4, rows=2)
    (top, bottom) = draw([[[(0, 1.0), (1, 1.0)]], [[(0, 0.0), (1, 0.0)]]], area, "", COLOURS)
    assert {style for _, style in top} == {"green"}
    assert {style for _, style in bottom} == {"cyan"}
    assert all(0x2800 < ord(character) < 0x2900 for character, _ in (*top, *bottom))


def test_a_value_far_outside_is_cut_off() -> None:
    area = Area(0, 2, 0.0, 1.0, columns=6, rows=3)
    drawn = text(draw([[[(0, 0.0), (1, 0.0), (2, 1e30)]]], area, "*", COLOURS))
    assert drawn[2].startswith("***")
    assert all(len(line) == 6 for line in drawn)


def test_a_single_point_is_in_the_middle() -> None:
    assert text(draw([[[(3, 7.0)]]], Area(3, 3, 7.0, 7.0, columns=5, rows=3), "*", COLOURS))[1] == "  *  "
