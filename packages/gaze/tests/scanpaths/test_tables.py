"""Tables with mapped columns: units, origins, time units, spelling."""

import gzip

import numpy as np
import pytest

from core_runtime.errors import UserError
from gaze.scanpaths.opening import read_scanpaths
from gaze.scanpaths.reading_options import ReadOptions


def table(tmp_path, text: str, name: str = "t.csv"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


ROWS = "who,what,gx,gy,ms\na,1.png,100,200,150\na,1.png,300,210,250\nb,1.png,110,190,350\n"
NAMED = ("x=gx", "y=gy", "duration=ms", "subject=who", "stimulus=what")


def test_columns_of_any_name(tmp_path):
    reading = read_scanpaths(table(tmp_path, ROWS), ReadOptions(columns=NAMED))
    assert [(each.subject, each.stimulus, each.x.tolist(), each.duration.tolist()) for each in reading.scanpaths] == [
        ("a", "1.png", [100, 300], [150, 250]),
        ("b", "1.png", [110], [350]),
    ]


def test_a_table_of_unknown_names_says_how_to_name_them(tmp_path):
    with pytest.raises(UserError) as error:
        read_scanpaths(table(tmp_path, ROWS))
    assert "--columns" in error.value.hint
    with pytest.raises(UserError, match="no column 'nope'"):
        read_scanpaths(table(tmp_path, ROWS), ReadOptions(columns=("x=nope", "y=gy")))


def test_usual_names_are_said(tmp_path):
    reading = read_scanpaths(table(tmp_path, "subject;image;fix_x;fix_y;duration_s\na;1.png;100,5;200;0,15\n"))
    assert reading.scanpaths[0].x.tolist() == [100.5]
    assert reading.scanpaths[0].duration.tolist() == [150]
    assert any("x fix_x" in note for note in reading.notes)


@pytest.mark.parametrize(
    ("options", "x", "y"),
    [
        (ReadOptions(units="normalised", screen=(1000, 500)), 250, 400),
        (ReadOptions(units="normalised", screen=(1000, 500), origin="bottom-left"), 250, 100),
        (ReadOptions(units="mm", screen=(1000, 500), screen_mm=(10, 5)), 25, 80),
        (ReadOptions(units="px", screen=(1000, 500), origin="centre"), 500.25, 249.2),
        (ReadOptions(units="px"), 0.25, 0.8),
    ],
)
def test_units_and_origins(tmp_path, options, x, y):
    path = table(tmp_path, "x,y,duration\n0.25,0.8,200\n0.25,0.8,300\n")
    read = read_scanpaths(path, options).scanpaths[0]
    np.testing.assert_allclose(read.points, [[x, y]] * 2)


def test_units_that_nobody_gave(tmp_path):
    path = table(tmp_path, "x,y,duration\n0.25,0.8,200\n0.2,0.7,300\n")
    with pytest.raises(UserError, match="they are not pixels"):
        read_scanpaths(path)
    with pytest.raises(UserError, match="by the size of the screen"):
        read_scanpaths(path, ReadOptions(units="normalised"))
    with pytest.raises(UserError, match="by the size of the screen"):
        read_scanpaths(path, ReadOptions(units="mm", screen=(10, 10)))


@pytest.mark.parametrize(("unit", "factor"), [("s", 1000), ("ms", 1), ("us", 0.001)])
def test_time_units(tmp_path, unit, factor):
    values = [0.2 * 1000 / factor, 0.3 * 1000 / factor, 0.25 * 1000 / factor]
    path = table(tmp_path, "x,y,duration\n" + "".join(f"{n}0,20,{value}\n" for n, value in enumerate(values, 1)))
    read = read_scanpaths(path, ReadOptions(time_unit=unit)).scanpaths[0]
    np.testing.assert_allclose(read.duration, [200, 300, 250])
    if unit != "ms":
        with pytest.raises(UserError, match="if durations are in ms"):
            read_scanpaths(path)


def test_multimatch_tables_in_ms_are_not_taken_for_seconds(tmp_path):
    path = table(tmp_path, "start_x\tstart_y\tduration\n" + "100\t200\t250\n" * 4, "a_sub-01.tsv")
    with pytest.raises(UserError, match="if durations are in s"):
        read_scanpaths(path)
    assert read_scanpaths(path, ReadOptions(time_unit="ms")).scanpaths[0].duration[0] == 250


def test_ends_instead_of_durations(tmp_path):
    read = read_scanpaths(table(tmp_path, "x,y,start,end\n10,20,100,350\n30,20,400,900\n")).scanpaths[0]
    assert read.duration.tolist() == [250, 500]
    assert read.onset.tolist() == [100, 400]


def test_missing_and_damaged_cells(tmp_path):
    text = "x,y,duration\n10,20,100\n.,20,100\nn/a,20,100\n40,inf,100\n50,20,\n60,20,-5\n70,20\n80,20,1,9\n"
    reading = read_scanpaths(table(tmp_path, text))
    assert reading.scanpaths[0].x.tolist() == [10, 50]
    assert np.isnan(reading.scanpaths[0].duration[1])
    assert reading.left_out == {
        "fixations without a position": 3,
        "fixations that end before they begin": 1,
        "rows with too few cells": 1,
        "rows with too many cells": 1,
    }


def test_eyes(tmp_path):
    path = table(tmp_path, "x,y,duration,eye\n10,20,100,L\n30,20,100,R\n")
    assert [each.eye for each in read_scanpaths(path).scanpaths] == ["left", "right"]
    only = read_scanpaths(path, ReadOptions(eye="left"))
    assert only.left_out == {"fixations of the right eye": 1}


def test_more_beside_than_on_the_screen(tmp_path):
    reading = read_scanpaths(
        table(tmp_path, "x,y,duration\n1000,2000,100\n3000,20,100\n5,5,100\n"), ReadOptions(screen=(800, 600))
    )
    assert any("--origin" in note for note in reading.notes)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x,y,x,duration\n1,2,3,4\n", "twice"),
        ('x,y,duration\n"1,2,3\n' + "1,2,3\n" * 40_000, "quote"),
        ("x,y,duration\n", "no fixations"),
    ],
)
def test_refused(tmp_path, text, said):
    with pytest.raises(UserError) as error:
        read_scanpaths(table(tmp_path, text))
    assert said in error.value.message + error.value.hint


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [("a.csv", b"", "empty"), ("a.bin", b"abc", "no known format"), ("a.edf", b"SR_RESEARCH", "no known")],
)
def test_other_files(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=said):
        read_scanpaths(tmp_path / name)
    with pytest.raises(UserError, match="no such file"):
        read_scanpaths(tmp_path / "absent.csv")


def test_onsets_in_another_unit_than_durations(tmp_path):
    text = "x,y,onset,duration\n10,20,1.0,200\n30,20,1.3,250\n50,20,1.6,220\n"
    with pytest.raises(UserError, match="different units"):
        read_scanpaths(table(tmp_path, text))
    read = read_scanpaths(table(tmp_path, text.replace("onset", "onset_s"))).scanpaths[0]
    np.testing.assert_allclose(read.onset, [1000, 1300, 1600])
    np.testing.assert_allclose(read.duration, [200, 250, 220])


def test_exports_of_gazepoint_and_pupil(tmp_path):
    """Both are in the unit square; Pupil's is measured from below, with times in s and durations in ms."""
    gazepoint = "FPOGX,FPOGY,FPOGS,FPOGD,USER\n0.5,0.5,1.0,0.25,u1\n0.6,0.1,1.5,0.3,u1\n"
    pupil = "id,start_timestamp,duration,norm_pos_x,norm_pos_y\n1,1.0,250,0.5,0.5\n2,1.5,300,0.6,0.9\n"
    for text in (gazepoint, pupil):
        read = read_scanpaths(table(tmp_path, text), ReadOptions(screen=(1000, 500))).scanpaths[0]
        np.testing.assert_allclose(read.points, [[500, 250], [600, 50]])
        np.testing.assert_allclose(read.duration, [250, 300])
        np.testing.assert_allclose(read.onset, [1000, 1500])


def test_a_row_for_each_sample_is_not_a_row_for_each_fixation(tmp_path):
    rows = [f"a,1.png,{x},200,{ms}" for x, ms in ((100, 150), (300, 250)) for _ in range(10)]
    path = table(tmp_path, "\n".join(["who,what,gx,gy,ms", *rows]) + "\n")
    with pytest.raises(UserError, match="18 of 20 rows repeat position and duration"):
        read_scanpaths(path, ReadOptions(columns=NAMED))


def test_a_decimal_comma_in_quotes_between_commas(tmp_path):
    path = table(tmp_path, 'x,y,duration\n"100,5","200,25",150\n300,210,250\n"1,200",210,250\n')
    reading = read_scanpaths(path)
    assert reading.scanpaths[0].x.tolist() == [100.5, 300]
    assert reading.left_out == {"fixations without a position": 1}, "1,200 could be a thousand"


def fixations_table(path, x, y, duration=200, onset=None):
    rows = ["x,y,duration,onset"]
    for place, (across, down) in enumerate(zip(x, y, strict=True)):
        last = duration[place] if isinstance(duration, list) else duration
        rows.append(f"{across},{down},{last},{onset[place] if onset else place * 300}")
    path.write_text("\n".join(rows))
    return path


def test_one_outlier_does_not_hide_the_unit_square(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.uniform(0, 1, (2, 30)).round(3)
    x[7] = 900.0
    with pytest.raises(UserError, match="29 of 30 positions lie between"):
        read_scanpaths(fixations_table(tmp_path / "t.csv", x, y))


def test_percent_is_asked_about(tmp_path):
    x, y = np.random.default_rng(0).uniform(0, 100, (2, 30)).round(1)
    path = fixations_table(tmp_path / "t.csv", x, y)
    assert any("are they percent?" in note for note in read_scanpaths(path).notes)
    assert any("are they percent?" in note for note in read_scanpaths(path, ReadOptions(screen=(1920, 1080))).notes)
    assert not any("percent" in note for note in read_scanpaths(path, ReadOptions(screen=(120, 110))).notes)


def test_durations_that_are_no_numbers_are_counted(tmp_path):
    x, y = np.random.default_rng(0).uniform(0, 900, (2, 6)).round(1)
    path = fixations_table(tmp_path / "t.csv", x, y, duration=[200, "nan", "long", 180, "", "inf"])
    reading = read_scanpaths(path)
    assert len(reading.scanpaths[0]) == 6
    assert "4 fixation(s) have no duration that is a number, and are kept" in reading.notes


def test_fixations_that_overlap_in_time_are_counted(tmp_path):
    x, y = np.random.default_rng(0).uniform(0, 900, (2, 4)).round(1)
    path = fixations_table(tmp_path / "t.csv", x, y, duration=[350, 200, 310, 200])
    assert "1 fixation(s) begin before the one before them has ended" in read_scanpaths(path).notes


def test_columns_under_their_own_names_are_not_remarked(tmp_path):
    x, y = np.random.default_rng(0).uniform(0, 900, (2, 4)).round(1)
    assert not any(
        "taken by their names" in note for note in read_scanpaths(fixations_table(tmp_path / "t.csv", x, y)).notes
    )


def test_onset_and_end_each_in_its_own_unit(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("x,y,onset_s,end_ms\n100,200,0,250\n300,210,0.3,550\n")
    reading = read_scanpaths(path)
    assert reading.scanpaths[0].duration.tolist() == [250, 250]
    path.write_text("x,y,onset_s,end_s\n100,200,0,0.25\n300,210,0.3,0.55\n")
    np.testing.assert_allclose(read_scanpaths(path).scanpaths[0].duration, [250, 250])


def test_one_axis_in_shares_is_refused(tmp_path):
    rng = np.random.default_rng(0)
    with pytest.raises(UserError, match="x lies between 0 and 1, y does not"):
        read_scanpaths(fixations_table(tmp_path / "t.csv", rng.uniform(0, 1, 20), rng.uniform(0, 900, 20)))


def test_a_column_cannot_be_two_things(tmp_path):
    rng = np.random.default_rng(0)
    path = fixations_table(tmp_path / "t.csv", *rng.uniform(0, 900, (2, 4)))
    with pytest.raises(UserError, match="takes 'x' for x and for y"):
        read_scanpaths(path, ReadOptions(columns=("x=x", "y=x")))
    with pytest.raises(UserError, match="no column that is known as x"):
        read_scanpaths(path, ReadOptions(columns=("subject=x",)))


def test_onsets_in_microseconds_beside_durations_in_ms(tmp_path):
    rng = np.random.default_rng(0)
    path = fixations_table(tmp_path / "t.csv", *rng.uniform(0, 900, (2, 6)), onset=[n * 300_000 + 1 for n in range(6)])
    with pytest.raises(UserError, match="slower than they last"):
        read_scanpaths(path)


@pytest.mark.parametrize(("spelled", "count"), [("LEFT_EYE", 1), ("Left eye", 1), ("R", 0)])
def test_spellings_of_eyes(tmp_path, spelled, count):
    path = tmp_path / "t.csv"
    path.write_text(f"x,y,duration,eye,trial\n100,200,250,{spelled},1\n300,210,250,right,2\n")
    if count:
        assert len(read_scanpaths(path, ReadOptions(eye="left")).scanpaths) == count
    else:
        with pytest.raises(UserError, match="fixations of the right eye"):
            read_scanpaths(path, ReadOptions(eye="left"))


def test_eyes_that_are_not_known_are_named(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("x,y,duration,eye\n100,200,250,0\n300,210,250,1\n")
    reading = read_scanpaths(path, ReadOptions(eye="left"))
    assert any("eyes that are not known: '0', '1'" in note for note in reading.notes)
    assert any("2 path(s) do not say which eye" in note for note in reading.notes)


def test_a_damaged_gzip_table(tmp_path):
    raw = gzip.compress(b"x,y,duration\n" + b"100,200,250\n" * 5000)
    (tmp_path / "t.csv.gz").write_bytes(raw[:30] + b"\xff" * (len(raw) - 50) + raw[-20:])
    with pytest.raises(UserError):
        read_scanpaths(tmp_path / "t.csv.gz")


@pytest.mark.parametrize("size", [(0.3, 0.4), (1e30, 5.0)])
def test_screens_of_no_size(size):
    with pytest.raises(UserError, match="a screen is from 1 to"):
        ReadOptions(screen=size)
