"""Tables of text, fitted into a narrow terminal."""

from __future__ import annotations

from trainctl.ui.table import Column, Table

TABLE = Table(
    (Column("#", right=True), Column("time", expendable=1), Column("best run", path=True)),
    (("1", "2 s", "outputs/sweeps/2026-11-27/18-05-43/0"), ("2", "3 s", "runs/1")),
)


def test_expendable_columns_go_before_paths_are_cut() -> None:
    assert TABLE.fitted(60) == (TABLE, [])
    table, left_out = TABLE.fitted(39)
    assert left_out == ["time"]
    assert table.rows[0][-1] == TABLE.rows[0][-1]


def test_of_a_path_the_end_is_kept() -> None:
    table, left_out = TABLE.fitted(20)
    assert left_out == ["time"]
    assert all(len(line) <= 20 for line in table.lines())
    assert TABLE.rows[0][-1].endswith(table.rows[0][-1].removeprefix("…"))
    assert table.rows[1][-1] == "runs/1"
