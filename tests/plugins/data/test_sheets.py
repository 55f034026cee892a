"""Lists of published data sets: their layouts are read, and what is wrong in them is named with file:line."""

from pathlib import Path

import numpy as np
import pytest
from avrobust_data.sets.sheets import Part, joined, read_lines, read_sheet

from avrobust_core import DataError

COLUMNS = ("a", "b")


@pytest.fixture
def write(tmp_path: Path):
    def write(data: bytes | str) -> Path:
        file = tmp_path / "list.csv"
        file.write_bytes(data if isinstance(data, bytes) else data.encode())
        return file

    return write


def rows(sheet) -> list[tuple[str, ...]]:
    return list(zip(*(sheet.table[name].to_pylist() for name in sheet.table.column_names), strict=True))


def test_comments_blank_lines_marks_and_line_ends_are_passed_over(write) -> None:
    file = write(b'\xef\xbb\xbf# one\n# two, more\r\n\r\n x ,1\r\n\n"y, z",2\r\n')
    sheet = read_sheet(file, COLUMNS, header=False)
    assert rows(sheet) == [("x", "1"), ("y, z", "2")]
    assert sheet.where(0) == f"{file}:4"
    assert sheet.where(1) == f"{file}:6"


def test_blanks_before_a_quote_are_dropped_where_lists_have_them(write) -> None:
    file = write('x, 0.000,  10.000, "/m/1,/m/2"\n')
    sheet = read_sheet(file, ("id", "start", "end", "labels"), header=False, tight=True)
    assert rows(sheet) == [("x", "0.000", "10.000", "/m/1,/m/2")]


def test_columns_are_found_by_a_header_whatever_its_case_and_order(write) -> None:
    sheet = read_sheet(write('other, B ,a,\n1,"two, too",3,\n'), COLUMNS, header=True, optional=("missing", "other"))
    assert sheet.table.column_names == ["a", "b", "other"]
    assert rows(sheet) == [("3", "two, too", "1")]


def test_a_header_may_be_left_out_where_lists_often_lack_it(write) -> None:
    assert rows(read_sheet(write('A&B\nx&"y\n'), COLUMNS, header=None, delimiter="&")) == [("x", '"y')]
    assert rows(read_sheet(write("x&y, z\n"), COLUMNS, header=None, delimiter="&")) == [("x", "y, z")]


@pytest.mark.parametrize(
    ("data", "header", "what"),
    [
        ("x,1\ny\nz,2,3\n", False, r"2 faults:\n.*list.csv:2: has 1 cells where 2 are expected\n.*:3: has 3 cells"),
        ("a,c\n1,2\n", True, r"list.csv:1: the header is a, c; it lacks b; take another"),
        ("a,b,A\n1,2,3\n", True, r":1: the header names the column a twice"),
        ("# only\n", False, r"has no rows"),
        ("a,b\n", True, r"has no rows"),
        ('x,1\n\ny,"2\nz,3\n', False, r"list.csv:3: a quote opens that the line does not close"),
        (b"x,\xff\n", False, r"is not UTF-8 \(byte 2\)"),
        ("x,1".encode("utf-16"), False, r"not UTF-8|NUL"),
    ],
)
def test_what_is_no_list_is_refused_with_its_place(write, data, header, what) -> None:
    with pytest.raises(DataError, match=what):
        read_sheet(write(data), COLUMNS, header=header, hint="; take another")


def test_what_cannot_be_opened_is_refused(tmp_path) -> None:
    with pytest.raises(DataError, match="there is no list"):
        read_sheet(tmp_path / "none.csv", COLUMNS, header=False)
    with pytest.raises(DataError, match="it is a folder"):
        read_lines(tmp_path)


def test_times_are_numbers_that_are_not_negative(write) -> None:
    sheet = read_sheet(write("0,1\n2.5,1.\n"), COLUMNS, header=False)
    assert sheet.seconds("a").to_pylist() == [0, 2.5]
    assert sheet.seconds("b").to_pylist() == [1, 1]
    for wrong in ("-1", "nan", "1e3", "", "inf", "1:30"):
        sheet = read_sheet(write(f"0,1\n{wrong},1\n"), COLUMNS, header=False)
        with pytest.raises(DataError, match=rf"list.csv:2: the a '{wrong}' is no time in seconds"):
            sheet.seconds("a")


def test_many_faults_are_counted_and_the_first_shown(write) -> None:
    sheet = read_sheet(write("x,1\n" * 9), COLUMNS, header=False)
    with pytest.raises(DataError, match=r"has 9 faults:\n(.*:\d: the a 'x' is no time in seconds\n){5}  and 4 more"):
        sheet.seconds("a")


def test_a_clip_that_two_lists_name_is_refused_with_both_places(tmp_path) -> None:
    parts = []
    for name, split, text in (("one", "train", "x,1\ny,1\n"), ("two", "test", "# z\nz,1\ny,1\n")):
        (tmp_path / name).write_text(text)
        sheet = read_sheet(tmp_path / name, COLUMNS, header=False)
        parts.append(Part(sheet, split, np.arange(2), sheet.table.rename_columns(["id", "b"])))
    with pytest.raises(DataError, match=r"two:3: the clip 'y' is that of .*one:2, of split 'train': what is tested"):
        joined(parts)
    assert joined(parts[:1])["id"].to_pylist() == ["x", "y"]
