"""Texts of every format, windows, tokenizers: what is read, and what is said of what cannot be."""

import gzip
import json

import numpy as np
import pytest
import torch

from core_runtime.errors import UserError
from language_models.tasks.needles import grid, is_right, pass_key, plant, ruler
from language_models.tasks.recall import recall_accuracy, recall_batch
from language_models.texts import reading
from language_models.texts.reading import read_corpus
from language_models.texts.tokens import BYTE_TOKENIZER, read_tokenizer, tokenizer_of
from language_models.texts.windows import order, windows_of
from language_models.training.data import InOrder, Steps


def decoded(corpus):
    ends = [*corpus.starts[1:], len(corpus.ids)]
    return [corpus.tokenizer.decode(corpus.ids[a:b]) for a, b in zip(corpus.starts, ends, strict=True)]


def test_text_records_and_bytes_give_their_documents(tmp_path):
    (tmp_path / "a.txt").write_text("first – text")
    (tmp_path / "b.jsonl").write_text('{"text": "one"}\n\n{"text": "two"}\n')
    with gzip.open(tmp_path / "c.gz", "wb") as file:
        file.write(bytes(range(10)))
    with gzip.open(tmp_path / "d.jsonl.gz", "wt") as file:
        file.write('{"text": "three"}\n')
    assert decoded(read_corpus(tmp_path, BYTE_TOKENIZER)) == [
        "first – text",
        "one",
        "two",
        bytes(range(10)).decode(),
        "three",
    ]
    (tmp_path / "e.jsonl").write_text('{"body": "four"}\n')
    assert decoded(read_corpus(tmp_path / "e.jsonl", BYTE_TOKENIZER, field="body")) == ["four"]


@pytest.mark.parametrize("suffix", [".npy", ".bin"])
def test_token_files_are_mapped_and_split_at_the_end_of_text(tmp_path, suffix):
    ids = np.array([104, 105, 256, 106, 256], np.uint16)
    file = tmp_path / f"ids{suffix}"
    if suffix == ".npy":
        np.save(file, ids)
    else:
        ids.tofile(file)
    corpus = read_corpus(file, BYTE_TOKENIZER)
    assert isinstance(corpus.ids, np.memmap)
    assert decoded(corpus) == ["hi", "j"]


def test_any_tokenizer_json_will_do():
    from tokenizers import Tokenizer, models, pre_tokenizers

    inner = Tokenizer(models.WordLevel({"go": 0, "on": 1, "</s>": 2, "?": 3}, unk_token="?"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = tokenizer_of(inner.to_str())
    assert tokenizer.encode("go on").tolist() == [0, 1]
    assert (tokenizer.end, tokenizer.landmark, tokenizer.size) == (2, 4, 22)
    with pytest.raises(UserError, match="end of text"):
        tokenizer_of(Tokenizer(models.WordLevel({"go": 0}, unk_token="go")).to_str())


BAD = {
    "empty.txt": (b"", "holds no text"),
    "blank.txt": (b" \n\t\n" * 500, "holds no text"),
    "blank.jsonl": (b'{"text": ""}\n{"text": " "}\n', "holds no text"),
    "wide.txt": ("text".encode("utf-16"), "byte 0 is not UTF-8"),
    "numbers.jsonl": (b'{"text": 5}\n', "line 1 has no text under 'text'"),
    "binary.txt": (b"text\0more", "byte 4 is 0"),
    "latin.txt": ("café".encode("latin-1"), "byte 3 is not UTF-8"),
    "broken.jsonl": (b'{"text": "a"}\nnot json\n', "line 2 is not JSON"),
    "other.jsonl": (b'{"body": "a"}\n', "no text under 'text'"),
    "damaged.gz": (b"no gzip at all", "damaged.gz"),
    "cut.jsonl.gz": (gzip.compress(json.dumps({"text": "a" * 50_000}).encode())[:-20], "cut.jsonl.gz"),
    "flipped.jsonl.gz": (gzip.compress(b'{"text": "a"}')[:12] + b"\xff" * 20, "flipped.jsonl.gz"),
    "half.jsonl": (b'{"text": "a\\ud800"}', r"half of a character \(.ud800\)"),
    "damaged.npy": (b"\x93NUMPY\x01", "damaged.npy"),
    "empty.bin": (b"", "empty.bin"),
    "odd.bin": (b"abc", "odd.bin"),
    "outside.bin": (np.array([1, 300], np.uint16).tobytes(), "1 of 2 ids are outside"),
    "unknown.xyz": (b"text", "does not have the name of a text or token file"),
}


@pytest.mark.parametrize("name", BAD)
def test_unusable_files_are_named(tmp_path, name):
    content, message = BAD[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_corpus(tmp_path / name, BYTE_TOKENIZER)
    assert "\n" not in caught.value.message
    assert caught.value.hint


def test_a_zstandard_file_may_have_frames_and_no_cut(tmp_path):
    compress = pytest.importorskip("zstandard").ZstdCompressor().compress
    lines = [json.dumps({"text": f"record {i} " * 40}) + "\n" for i in range(50)]
    whole = compress("".join(lines[:30]).encode()) + compress("".join(lines[30:]).encode())
    file = tmp_path / "a.jsonl.zst"
    file.write_bytes(whole)
    assert decoded(read_corpus(file, BYTE_TOKENIZER)) == [json.loads(line)["text"] for line in lines]
    for content, message in ((whole[:-10], "was cut"), (b"plain text", "frame"), (whole[:40] + b"\xff" * 60, "zst")):
        file.write_bytes(content)
        with pytest.raises(UserError, match=message):
            read_corpus(file, BYTE_TOKENIZER)


def test_a_very_long_line_is_refused_and_a_long_text_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "LONGEST_LINE", 1000)
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "x" * 2000}) + "\n")
    with pytest.raises(UserError, match="line 1 is longer"):
        read_corpus(tmp_path / "a.jsonl", BYTE_TOKENIZER)
    (tmp_path / "a.txt").write_text("x" * 5000)
    assert len(read_corpus(tmp_path / "a.txt", BYTE_TOKENIZER).ids) == 5001


def test_windows_hold_the_end_of_the_text_out(tmp_path):
    (tmp_path / "a.txt").write_text("".join(chr(97 + i % 26) for i in range(1000)))
    windows = windows_of(read_corpus(tmp_path / "a.txt", BYTE_TOKENIZER), 40)
    assert windows.count * 40 + windows.held_out <= 1001
    ids, _ = windows.batch(torch.tensor([0, 1]))
    assert BYTE_TOKENIZER.decode(ids.flatten().tolist()) == "".join(chr(97 + i % 26) for i in range(80))
    held = [ids for ids, _ in windows.held_out_windows(40, 99)]
    assert len(held) == 2
    with pytest.raises(UserError, match="needs 1200"):
        windows_of(windows.corpus, 600)


def test_the_order_is_a_function_of_seed_and_step(tmp_path):
    (tmp_path / "a.txt").write_text("".join(chr(97 + i % 26) for i in range(1000)))
    windows = windows_of(read_corpus(tmp_path / "a.txt", BYTE_TOKENIZER), 40)
    steps = Steps(windows, 4, 20, seed=3)
    assert torch.equal(steps[7][0], Steps(windows, 4, 20, seed=3)[7][0])
    assert not torch.equal(steps[7][0], Steps(windows, 4, 20, seed=4)[7][0])
    first_pass = [int(n) for n in order(windows.count, 0, 3)]
    assert sorted(first_pass) == list(range(windows.count))
    assert [int(n) for n in order(windows.count, 1, 3)] != first_pass
    assert list(InOrder([5, 5, 2], 2)) == [10, 11]


def test_marked_needles_stand_where_they_should():
    ids = torch.zeros(50, 40, dtype=torch.long)
    for depth, place in ((0.0, 0), (0.5, 18), (1.0, 36)):
        planted, answers = plant(ids, BYTE_TOKENIZER, torch.Generator().manual_seed(0), depth)
        assert (planted[:, place] == BYTE_TOKENIZER.mark).all()
        assert torch.equal(planted[:, place + 1], answers)
        assert (planted[:, -2] == BYTE_TOKENIZER.mark).all()
        assert torch.equal(planted[:, -1], answers)
        assert int((planted == BYTE_TOKENIZER.mark).sum()) == 100
    assert len(set(answers.tolist())) > 8


def test_a_needle_is_told_before_it_is_asked_for():
    ids = torch.zeros(200, 40, dtype=torch.long)
    for depth, place in ((0.5, 18), (0.9, 32)):
        planted, _ = plant(ids, BYTE_TOKENIZER, torch.Generator().manual_seed(0), depth, questions=4)
        assert not (planted[:, :place] == BYTE_TOKENIZER.mark).any()
        marks = (planted == BYTE_TOKENIZER.mark).sum(1)
        assert marks.max() == 5, "told once, asked four times"


def test_worded_needles_have_their_length_depth_and_answer():
    prompts = grid((400, 800), (0.0, 1.0), pass_key, 2, seed=1)
    assert len(prompts) == 8
    for prompt in prompts:
        assert abs(len(prompt.text) - prompt.length) < 5
        assert prompt.text.count(f"The pass key is {prompt.answer}.") == 1
        assert is_right(prompt, f" {prompt.answer}. Remember")
        assert not is_right(prompt, f" 0{prompt.answer}")
        assert not is_right(prompt, f" {prompt.answer[:-1]}.")
    for number in (1, 2, 3):
        prompt = ruler(number, 600, 0.5, 4, "To be or not to be. ")
        assert prompt.answer in prompt.text
        assert is_right(prompt, f" {prompt.answer}\n")
        assert ("grass" in prompt.text) == (number == 1)


def test_recall_asks_for_what_was_told():
    ids, labels = recall_batch(16, 4, torch.Generator().manual_seed(0))
    for row, label in zip(ids.tolist(), labels.tolist(), strict=True):
        told = dict(zip(row[:8:2], row[1:8:2], strict=True))
        for place, target in enumerate(label):
            if target != -100:
                assert told[row[place - 1]] == target == row[place]
    logits = torch.nn.functional.one_hot(ids.roll(-1, 1), 64).float()
    assert recall_accuracy(logits, labels) == (64, 64)


def test_the_tokenizer_file_is_named_when_it_cannot_be_read(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    for path in (tmp_path / "absent.json", tmp_path / "tokenizer.json"):
        with pytest.raises(UserError, match=path.name):
            read_tokenizer(path)
