"""EyeLink ASC: what recordings do that readers trip over."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from core_runtime.errors import UserError
from gaze.scanpaths.asc import read_asc
from gaze.scanpaths.asc_samples import read_samples
from gaze.scanpaths.opening import read_scanpaths
from gaze.scanpaths.reading_options import ReadOptions
from gaze.scanpaths.writing import write_scanpaths

from .conftest import make_scanpath

HEAD = "** CONVERTED FROM s1.edf\n** DATE: Mon Jan  5 09:00:00 2026\n** SOURCE: EYELINK CL\n**\n\nMSG\t990 DISPLAY_COORDS 0 0 1279 1023\n"


def block(*lines: str, start: int = 1000, eyes: str = "LEFT", samples: bool = True, columns: str = "") -> str:
    """A recording block with these lines in it."""
    head = f"START\t{start} \t{eyes}\tSAMPLES\tEVENTS\nPRESCALER\t1\nEVENTS\tGAZE\t{eyes}\tRATE\t1000.00\tTRACKING\tCR\tFILTER\t2\n"
    head += f"SAMPLES\tGAZE\t{eyes}\tRATE\t1000.00\tTRACKING\tCR\tFILTER\t2{columns}\n"
    pairs = "\t  640.0\t  512.0\t  500.0" * (2 if "\t" in eyes else 1)
    body = "".join(f"{start + n}{pairs}\t...\n" for n in range(4)) if samples else ""
    return (
        head
        + body
        + "".join(line + "\n" for line in lines)
        + f"END\t{start + 900} \tSAMPLES\tEVENTS\tRES\t  40.00\t  40.00\n"
    )


def fixation(
    onset: int, x: float = 640.0, y: float = 512.0, eye: str = "L", duration: int = 100, started: bool = True
) -> str:
    end = f"EFIX {eye}   {onset}\t{onset + duration - 1}\t{duration}\t  {x}\t  {y}\t    500"
    return f"SFIX {eye}   {onset}\n{end}" if started else end


def read(tmp_path, text: str, options: ReadOptions = ReadOptions()):
    path = tmp_path / "s1.asc"
    path.write_text(text, encoding="utf-8")
    return read_scanpaths(path, options)


def test_end_without_start_is_kept_and_said(tmp_path):
    reading = read(tmp_path, HEAD + block(fixation(1000, started=False), fixation(1200)))
    assert len(reading.scanpaths[0]) == 2
    assert any("1 fixation ends without a start" in note for note in reading.notes)


def test_start_without_end_is_counted(tmp_path):
    reading = read(tmp_path, HEAD + block(fixation(1000), "SFIX L   1200"))
    assert len(reading.scanpaths[0]) == 1
    assert reading.left_out == {"fixation starts without an end": 1}


def test_the_tracked_eye_changes_between_blocks(tmp_path):
    reading = read(tmp_path, HEAD + block(fixation(1000)) + block(fixation(3000, eye="R"), start=3000, eyes="RIGHT"))
    assert [each.eye for each in reading.scanpaths] == ["left", "right"]
    assert any("tracked eye changes" in note for note in reading.notes)


def test_binocular_blinks_that_overlap(tmp_path):
    blinks = ["SBLINK L 1200", "SBLINK R 1210", "EBLINK R 1210\t1290\t81", "EBLINK L 1200\t1300\t101"]
    reading = read(tmp_path, HEAD + block(fixation(1000), fixation(1000, eye="R"), *blinks, eyes="LEFT\tRIGHT"))
    assert [each.eye for each in reading.scanpaths] == ["left", "right"]
    assert reading.facts["blinks"] == 2
    assert not any("without a start" in note for note in reading.notes)


def test_blink_at_a_trials_start(tmp_path):
    reading = read(tmp_path, HEAD + block("EBLINK L 990\t1050\t61", fixation(1100)))
    assert len(reading.scanpaths[0]) == 1
    assert "1 blink ends without a start" in reading.notes


def test_empty_first_trial(tmp_path):
    text = HEAD + "MSG\t1000 TRIALID 1\n" + block("MSG\t1800 TRIAL_RESULT 0")
    text += "MSG\t3000 TRIALID 2\n" + block(fixation(3100), start=3000)
    reading = read(tmp_path, text)
    assert [each.trial for each in reading.scanpaths] == ["2"]
    assert reading.left_out == {"trials without a fixation": 1}


def test_block_without_samples(tmp_path):
    reading = read(tmp_path, HEAD + block(fixation(1000)) + block(fixation(3000), start=3000, samples=False))
    assert len(reading.scanpaths) == 2
    assert "blocks without samples: 2" in reading.notes


def test_input_status_and_head_columns(tmp_path):
    """INPUT lines among the events, and samples with columns behind the pupil, whether announced or not."""
    text = HEAD + block("INPUT\t1003\t127", fixation(1000), columns="\tINPUT\tSTATUS\tHTARGET")
    assert len(read(tmp_path, text).scanpaths[0]) == 1
    samples = read_samples(tmp_path / "s1.asc")
    assert len(samples) == 4
    wide = text.replace("\t  500.0\t...", "\t  500.0\t  127.0\t...\t -12.0\t 5.0\t 600.0\t.............")
    (tmp_path / "s1.asc").write_text(wide)
    np.testing.assert_array_equal(read_samples(tmp_path / "s1.asc").points["left"], samples.points["left"])


def test_no_date(tmp_path):
    reading = read(tmp_path, HEAD.replace("** DATE: Mon Jan  5 09:00:00 2026\n", "") + block(fixation(1000)))
    assert "the file has no date" in reading.notes


def test_two_displays_that_differ(tmp_path):
    text = HEAD + "MSG\t995 GAZE_COORDS 0.00 0.00 1919.00 1079.00\n" + block(fixation(1000))
    with pytest.raises(UserError, match="two sizes of the screen: DISPLAY_COORDS 1280 × 1024, GAZE_COORDS 1920 × 1080"):
        read(tmp_path, text)
    assert read(tmp_path, text, ReadOptions(screen=(1280, 1024))).scanpaths[0].display.size == (1280, 1024)


@pytest.mark.parametrize(
    "coordinates",
    ["DISPLAY_COORDS 0 0 1919 1079", "GAZE_COORDS 0.00 0.00 1920.00 1080.00", "DISPLAY_COORDS = 0 0 1919 1079"],
)
def test_the_last_pixel_or_the_size(tmp_path, coordinates):
    text = HEAD.replace("DISPLAY_COORDS 0 0 1279 1023", coordinates) + block(fixation(1000))
    assert read(tmp_path, text).scanpaths[0].display.size == (1920, 1080)


def test_no_display_at_all(tmp_path):
    reading = read(tmp_path, "\n".join(HEAD.splitlines()[:-1]) + "\n" + block(fixation(1000)))
    assert reading.scanpaths[0].display.size is None
    assert any("--screen" in note for note in reading.notes)


@pytest.mark.parametrize("missing", [".", "n/a", "nan"])
def test_missing_positions(tmp_path, missing):
    reading = read(tmp_path, HEAD + block(fixation(1000), fixation(1200).replace("  640.0", f"   {missing}")))
    assert len(reading.scanpaths[0]) == 1
    assert reading.left_out == {"fixations without a position": 1}


def test_damaged_lines_are_counted(tmp_path):
    reading = read(
        tmp_path,
        HEAD
        + block(fixation(1000), "EFIX L 1200", "SFIX", "EFIX Q 1 2 3 4 5 6", "MSG\tx", fixation(1500, duration=-5)),
    )
    assert len(reading.scanpaths[0]) == 1
    assert reading.left_out["event lines that cannot be read"] == 3
    assert reading.left_out["messages that cannot be read"] == 1
    assert reading.left_out["fixations that end before they begin"] == 1


def test_duplicate_and_unordered_times(tmp_path):
    reading = read(
        tmp_path,
        HEAD + block(fixation(1300, 300.0), fixation(1000, 100.0), fixation(1300, 999.0), fixation(1150, 200.0)),
    )
    assert reading.scanpaths[0].x.tolist() == [100, 200, 300]
    assert reading.left_out == {"fixations that repeat an onset": 1}
    assert any("sorted by their onset" in note for note in reading.notes)


def test_off_screen(tmp_path):
    text = HEAD + block(fixation(1000), fixation(1200, -30.0), fixation(1400, 2000.0))
    kept = read(tmp_path, text)
    assert len(kept.scanpaths[0]) == 3
    assert "2 fixation(s) beside the screen were kept" in kept.notes
    dropped = read(tmp_path, text, ReadOptions(off_screen="drop"))
    assert len(dropped.scanpaths[0]) == 1
    assert dropped.left_out == {"fixations beside the screen": 2}
    clipped = read(tmp_path, text, ReadOptions(off_screen="clip"))
    assert clipped.scanpaths[0].x.tolist() == [640, 0, 1279]


def test_the_users_trials(tmp_path):
    """A fixation belongs to the trial in which it begins; those outside are left out."""
    lines = [
        fixation(1000),
        "MSG\t1150 DISPLAY ON cup",
        fixation(1200),
        fixation(1350),
        "MSG\t1500 DISPLAY OFF",
        fixation(1600),
    ]
    options = ReadOptions(trial_start=r"DISPLAY ON (\w+)", trial_end="DISPLAY OFF")
    reading = read(tmp_path, HEAD + block(*lines), options)
    (scanpath,) = reading.scanpaths
    assert scanpath.trial == "cup"
    assert scanpath.onset.tolist() == [50, 200]
    assert reading.left_out == {"fixations that begin outside of every trial": 2}


def test_a_fixation_that_began_before_its_trial(tmp_path):
    lines = ["SFIX L   1100", "MSG\t1150 DISPLAY ON", "EFIX L   1100\t1199\t100\t 640.0\t 512.0\t 500", fixation(1250)]
    reading = read(tmp_path, HEAD + block(*lines), ReadOptions(trial_start="DISPLAY ON"))
    assert reading.scanpaths[0].onset.tolist() == [100]


def test_fixations_outside_of_named_trials_are_kept_by_default(tmp_path):
    reading = read(tmp_path, HEAD + block(fixation(1000), "MSG\t1150 TRIALID cup", fixation(1200)))
    assert [(each.trial, len(each)) for each in reading.scanpaths] == [("block 1", 1), ("cup", 1)]


def test_pictures_and_variables_of_trials(tmp_path):
    lines = [
        "MSG\t1001 !V IMGLOAD CENTER images/shelf 1.png 640 512",
        fixation(1100),
        "MSG\t1800 -11 !V TRIAL_VAR condition hard one",
    ]
    reading = read(tmp_path, HEAD + "MSG\t999 TRIALID 7\n" + block(*lines))
    assert reading.scanpaths[0].stimulus == "shelf 1.png"
    assert reading.scanpaths[0].details == {"condition": "hard one"}


@pytest.mark.parametrize("ends", ["\r\n", "\r"])
def test_line_ends(tmp_path, ends):
    path = tmp_path / "s1.asc"
    path.write_bytes((HEAD + block(fixation(1000))).replace("\n", ends).encode())
    assert len(read_scanpaths(path).scanpaths[0]) == 1


def test_a_file_without_its_last_line_end(tmp_path):
    text = HEAD + block(fixation(1000)).split("END\t")[0].rstrip("\n")
    assert len(read(tmp_path, text).scanpaths[0]) == 1


def test_lines_over_the_borders_of_blocks(tmp_path, monkeypatch):
    wrote = [make_scanpath("a.png", eye="left"), make_scanpath("b.png", eye="left", seed=1)]
    write_scanpaths(wrote, tmp_path / "s1.asc")
    whole, samples = read_asc(tmp_path / "s1.asc"), read_samples(tmp_path / "s1.asc")
    for size in (97, 1000, 65_521):
        monkeypatch.setattr("gaze.scanpaths.asc_events.BLOCK", size)
        monkeypatch.setattr("gaze.scanpaths.asc_samples.BLOCK", size)
        again = read_asc(tmp_path / "s1.asc")
        assert [each.onset.tolist() for each in again.scanpaths] == [each.onset.tolist() for each in whole.scanpaths]
        assert again.notes == whole.notes
        if size > 200:
            np.testing.assert_array_equal(read_samples(tmp_path / "s1.asc").points["left"], samples.points["left"])


def test_samples_are_those_of_mne(tmp_path):
    mne = pytest.importorskip("mne")
    wrote = make_scanpath(eye="left")
    write_scanpaths([wrote], tmp_path / "s1.asc")
    samples = read_samples(tmp_path / "s1.asc")
    raw = mne.io.read_raw_eyelink(tmp_path / "s1.asc", verbose="error")
    x = raw.get_data(picks=["xpos_left"])[0]
    np.testing.assert_allclose(samples.points["left"][:, 0], x[: len(samples)], atol=1e-6)


def test_damaged_samples_become_missing(tmp_path):
    text = HEAD + block(fixation(1000)).replace("1002\t  640.0", "1002\t   x.y")
    (tmp_path / "s1.asc").write_text(text)
    samples = read_samples(tmp_path / "s1.asc")
    assert samples.time.tolist() == [1000, 1001, 1002, 1003]
    assert np.isnan(samples.points["left"][2, 0])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (HEAD, "no recording"),
        (HEAD + block(), "geometry"),
        (HEAD + block(samples=False), "no fixations"),
        (HEAD + block(fixation(1000)).replace("EVENTS\tGAZE", "EVENTS\tHREF"), "HREF"),
        (HEAD + block(fixation(1000, duration=-3)), "1 fixations that end before they begin"),
    ],
)
def test_refused(tmp_path, text, said):
    with pytest.raises(UserError) as error:
        read(tmp_path, text)
    assert said in error.value.message


def test_options_that_do_not_fit():
    with pytest.raises(UserError, match="not a regular expression"):
        ReadOptions(trial_start="(")
    with pytest.raises(UserError, match="needs --trial-start"):
        ReadOptions(trial_end="OFF")
    with pytest.raises(UserError, match="not understood"):
        ReadOptions(columns=("x:gaze",))
    with pytest.raises(UserError, match="twice"):
        ReadOptions(columns=("x=a", "x=b"))
    with pytest.raises(UserError, match="from 1 to"):
        ReadOptions(screen=(0, 3))


def test_memory_does_not_grow_with_the_recording(tmp_path, monkeypatch):
    """Four times the samples, the same fixations: the same memory."""
    monkeypatch.setattr("gaze.scanpaths.asc_events.BLOCK", 128 * 1024)
    path = tmp_path / "s1.asc"
    lines = "".join(f"{1000 + n}\t  640.0\t  512.0\t  500.0\t...\n" for n in range(20_000))
    peaks = []
    for times in (4, 16):
        with path.open("w") as file:
            file.write(HEAD + block().split("END")[0])
            for _ in range(times):
                file.write(lines)
            file.write(fixation(1000) + "\nEND\t99000 \tSAMPLES\tEVENTS\n")
        tracemalloc.start()
        assert len(read_asc(path).scanpaths[0]) == 1
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from Linux's /proc")
def test_an_hour_takes_little_memory(tmp_path):
    """The peak of a process of its own, libraries and all: 150 MiB at most."""
    import subprocess
    import sys

    wrote = [make_scanpath(f"{n}.png", eye="left", seed=n, count=30) for n in range(60)]
    write_scanpaths(wrote, tmp_path / "s1.asc")
    content = (tmp_path / "s1.asc").read_bytes()
    seconds = sum(float(each.onset[-1] + each.duration[-1]) for each in wrote) / 1000
    with (tmp_path / "hour.asc").open("wb") as file:
        for _ in range(int(3600 / seconds) + 1):
            file.write(content)
    code = (
        "import sys; from pathlib import Path; from gaze.scanpaths.asc import read_asc;"
        "r = read_asc(Path(sys.argv[1]));"
        "peak = next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM'));"
        "print(sum(map(len, r.scanpaths)), int(peak) // 1024)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "hour.asc")], capture_output=True, text=True, check=True
    )
    fixations, mebibytes = map(int, done.stdout.split())
    assert fixations > 5_000
    assert mebibytes < 150


def test_a_clock_that_goes_back_is_said(tmp_path):
    reading = read(tmp_path, HEAD + block(fixation(2010), start=2000) + block(fixation(1010)) + block(fixation(1010)))
    assert [len(each) for each in reading.scanpaths] == [1, 1, 1]
    assert any("begin no later than the one before them: 2, 3" in note for note in reading.notes), reading.notes


def test_a_file_that_is_cut_in_its_last_fixation(tmp_path):
    """A number that lost digits is still a number: the line counts only where the pupil's size stands behind the position."""
    text = HEAD + block(fixation(1000), fixation(1200, y=512.9)).split("END\t")[0]
    for cut in ("\t  512", "\t  512.9", "\t  640"):
        reading = read(tmp_path, text[: text.rindex("\t  640.0")] + {"\t  640": cut}.get(cut, "\t  640.0" + cut))
        assert len(reading.scanpaths[0]) == 1
        assert reading.left_out["fixations on a last line that is cut"] == 1
        assert any("ends within a recording block" in note for note in reading.notes)


def test_a_duration_that_the_times_contradict_is_said(tmp_path):
    reading = read(tmp_path, HEAD + block(fixation(1000), fixation(1200).replace("\t100\t", "\t10\t")))
    assert any("1 fixation lines whose duration is not the time" in note for note in reading.notes)
    assert not any("duration" in note for note in read(tmp_path, HEAD + block(fixation(1000))).notes)


def test_another_screen_than_the_file_names_is_said(tmp_path):
    reading = read(tmp_path, HEAD + block(fixation(1000)), ReadOptions(screen=(800, 600)))
    assert any("the file says that the screen has 1280 × 1024 px" in note for note in reading.notes)
    same = read(tmp_path, HEAD + block(fixation(1000)), ReadOptions(screen=(1280, 1024)))
    assert not any("the file says" in note for note in same.notes)


@pytest.mark.parametrize(("named", "left", "top"), [("-640 -512 639 511", -640, -512), ("1920 0 3199 1023", 1920, 0)])
def test_a_screen_that_does_not_begin_at_zero(tmp_path, named, left, top):
    text = HEAD.replace("0 0 1279 1023", named) + block(fixation(1000, x=left + 100, y=top + 50))
    reading = read(tmp_path, text)
    assert reading.scanpaths[0].points.tolist() == [[100, 50]]
    assert any("pixels from the upper left now" in note for note in reading.notes)


def test_a_screen_that_counts_upwards(tmp_path):
    text = HEAD.replace("0 0 1279 1023", "0 1023 1279 0") + block(fixation(1000, x=100, y=50))
    with pytest.raises(UserError, match="count upwards"):
        read(tmp_path, text)
    reading = read(tmp_path, text, ReadOptions(screen=(1280, 1024), origin="bottom-left"))
    assert reading.scanpaths[0].points.tolist() == [[100, 974]]


def test_times_of_the_tracker_are_ms_whatever_is_asked(tmp_path):
    with pytest.raises(UserError, match="--time-unit s, but the format counts in ms"):
        read(tmp_path, HEAD + block(fixation(1000)), ReadOptions(time_unit="s"))
