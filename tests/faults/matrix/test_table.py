"""No row of the fault matrix without a test, and a page that says which."""

from __future__ import annotations

import pytest

from tests.faults.matrix import table


@pytest.mark.parametrize("row", table.ROWS)
def test_every_row_has_a_test(row: int) -> None:
    assert table.marked().get(row), f"no test is marked with pytest.mark.fault({row})"


def test_there_are_25_rows_and_no_mark_of_another() -> None:
    assert list(table.ROWS) == list(range(1, 26))
    assert set(table.marked()) <= set(table.ROWS)


def test_the_page_names_the_tests_of_each_row() -> None:
    written = table.PAGE.read_text()
    assert written == table.page(), "write it anew: python -m tests.faults.matrix.table"


def test_what_needs_a_gpu_has_its_script() -> None:
    assert (table.ROOT / table.GPU).is_file()
