import pytest
from mutating import mutated, try_mutations

from core_runtime.errors import UserError
from core_runtime.tables import match_name, near_equal, read_table

BODY = "slide_id,label,mpp\na,tumour,0.25\nb,normal,0.5\n"


def write(tmp_path, data):
    path = tmp_path / "täble.csv"
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


@pytest.mark.parametrize(
    "data",
    [
        BODY,
        BODY.encode("utf-16"),
        BODY.encode("utf-16-le"),
        BODY.encode("utf-8-sig"),
        BODY.replace(",", ";"),
        BODY.replace(",", "\t"),
        BODY.replace("\n", "\r\n"),
        BODY.replace("\n", ",,\n"),
        BODY + "\n\n",
    ],
)
def test_one_table_however_it_was_saved(tmp_path, data):
    table = read_table(write(tmp_path, data))
    assert [dict(row.cells) for row in table] == [
        {"slide_id": "a", "label": "tumour", "mpp": "0.25"},
        {"slide_id": "b", "label": "normal", "mpp": "0.5"},
    ]
    assert table.account() == "täble.csv: 2 rows, all used"


def test_every_row_is_used_or_left_out_for_a_reason(tmp_path):
    table = read_table(write(tmp_path, 'a,b\n1,2\n\n3\n4,5,6\n"7,8\n9,NA\n10,"x, y"\n'))
    assert [(row.line, row["a"], row["b"]) for row in table] == [(2, "1", "2"), (7, "9", None), (8, "10", "x, y")]
    table.leave_out(table.rows[1], "without a label")
    assert len(list(table)) == 2
    assert table.account() == (
        "täble.csv: 7 rows, 2 used, 5 left out: 1 blank (line 3), 1 with fewer cells than columns (line 4), "
        "1 with more cells than columns (line 5), 1 with a quote that is not closed (line 6), 1 without a label (line 7)"
    )


def test_an_open_quote_costs_its_own_row_alone(tmp_path):
    rows = "".join(f"s{i},x\n" for i in range(20))
    table = read_table(write(tmp_path, f'id,label\nbad,"x\n{rows}'))
    assert len(list(table)) == 20
    assert table.left_out == {2: "with a quote that is not closed"}


def test_special_characters_of_other_encodings_are_noted(tmp_path):
    table = read_table(write(tmp_path, "id,näme\n1,Müller\n".encode("latin-1")))
    assert next(iter(table))["näme"] == "Müller"
    assert "Windows-1252" in table.notes[0]


def test_columns_are_found_by_any_spelling_and_nearest_names_are_shown(tmp_path):
    table = read_table(write(tmp_path, "Patient ID,lable\n1,2\n"))
    assert table.column("patient_id") == "Patient ID"
    assert table.column("case", "patient-id") == "Patient ID"
    assert table.column("site", required=False) is None
    with pytest.raises(UserError) as error:
        table.column("label")
    assert "is it 'lable'?" in error.value.hint


def test_numbers_with_a_decimal_comma(tmp_path):
    table = read_table(write(tmp_path, "a;b\n0,25;x\nNA;y\n"))
    assert [table.number(row, "a") for row in table] == [0.25, None]
    with pytest.raises(UserError, match="line 2: b is 'x'"):
        table.number(table.rows[0], "b")


@pytest.mark.parametrize(
    "data", [b"", b"\n \n", b"PK\x03\x04...", bytes(range(256)), b'"a,b\n1,2', "a,a\n1,2", b"\xff\xfea"]
)
def test_what_is_not_a_table_is_said_in_one_line(tmp_path, data):
    with pytest.raises(UserError, match="täble"):
        read_table(write(tmp_path, data))


def test_names_that_are_nearly_equal():
    assert near_equal(["Tumour", "tumour", "normal", "non-tumor", "non tumor"]) == [
        ["Tumour", "tumour"],
        ["non-tumor", "non tumor"],
    ]
    assert match_name("railway ", ["Railway", "vineyard"]) == "Railway"
    assert match_name("house", ["Railway"]) is None


@mutated("tables with changed bytes", "a table, each row used or left out for a reason; or one line", quick=100)
def test_no_damage_ends_in_anything_but_a_table_or_one_line(tmp_path, count):
    path = write(tmp_path, BODY)

    def use():
        table = read_table(path)
        assert len(list(table)) == len(table.rows)
        assert all(row.cells.keys() == set(table.columns) for row in table)

    assert try_mutations(path, use, count) > 0


def test_excels_line_about_the_separator_is_no_header(tmp_path):
    table = read_table(write(tmp_path, "sep=;\na;b\n1;2\n"))
    assert [dict(row.cells) for row in table] == [{"a": "1", "b": "2"}]


def test_bracketed_words_of_clinical_tables_are_missing_values(tmp_path):
    table = read_table(write(tmp_path, "a,b\n1,[Not Available]\n2,[unknown]\n3,[x]\n"))
    assert [row["b"] for row in table] == [None, None, "[x]"]


def test_numbers_spelled_in_two_ways_are_almost_the_same():
    assert near_equal(["1", "1.0", "01", "10", "a1"]) == [["1", "1.0", "01"]]
