import pytest

from vlmforge.data.sources.csv import CsvRows
from vlmforge.errors import DataError


def write(tmp_path, text, name="a.csv", encoding="utf-8"):
    path = tmp_path / name
    path.write_bytes(text.encode(encoding))
    return str(path)


def test_quotes_line_ends_and_blank_lines_are_read_as_a_spreadsheet_writes_them(tmp_path):
    text = 'image,caption\r\na.png,"one, ""two""\nthree"\r\n\r\nb.png,5" wide\r\nc.png,'
    text = text.replace("three", "three\u2028and\ffour")
    rows = CsvRows(write(tmp_path, text, encoding="utf-8-sig"))
    assert [rows[i]["caption"] for i in (2, 0, 1)] == ["", 'one, "two"\nthree\u2028and\ffour', '5" wide']
    assert rows[1]["image"] == "b.png"
    assert [rows.locate(i).rpartition(":")[2] for i in range(3)] == ["2", "5", "6"]


def test_tabs_part_the_fields_of_a_tsv_file(tmp_path):
    rows = CsvRows(write(tmp_path, "image\tcaption\na.png\tone, two\n", "a.tsv"))
    assert rows[0] == {"image": "a.png", "caption": "one, two"}


def test_a_row_with_too_many_fields_is_bad_and_the_others_are_not(tmp_path):
    path = write(tmp_path, "image,caption\na.png,one, two\nb.png,three\n")
    rows = CsvRows(path)
    assert rows[1] == {"image": "b.png", "caption": "three"}
    with pytest.raises(DataError, match="the row has 3 fields, and the first line names 2 columns") as caught:
        rows[0]
    assert caught.value.problems[0].where == f"{path}:2"


@pytest.mark.parametrize(
    ("text", "encoding", "words"),
    [
        ("", "utf-8", "holds no rows"),
        ("image,caption\n", "utf-8", "holds no rows"),
        ('image,caption\na.png,"a cat\nb.png,a dog\n', "utf-8", "no row can be read: unexpected end of data"),
        ("image,image\na,b\n", "utf-8", "must name every column once"),
        ("image, caption\na,b\n", "utf-8", "without blanks around it; it names .* ' caption'"),
        ("image;caption\na;b\n", "utf-8", "names one column, 'image;caption'; fields are parted by commas"),
        ("image,caption\na.png,\u00e9t\u00e9\n", "latin-1", "no row can be read: 'utf-8' codec"),
    ],
)
def test_a_file_that_is_no_table_is_told(tmp_path, text, encoding, words):
    with pytest.raises(DataError, match=words):
        len(CsvRows(write(tmp_path, text, encoding=encoding)))
