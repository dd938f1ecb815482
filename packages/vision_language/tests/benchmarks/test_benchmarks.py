"""Benchmarks: their rules by hand, and all of the published question files where they are at hand."""

import json
from pathlib import Path

import numpy as np
import pytest

from core_runtime.errors import UserError
from vision_language.benchmarks.others import (
    chair,
    mentioned,
    mmvp_hit,
    rank_of,
    read_genecis,
    read_mmvp,
)
from vision_language.benchmarks.pope import judge, read_answers, read_pope, yes_or_no
from vision_language.benchmarks.sugarcrepe import commoner_wins, read_sugarcrepe, shorter_wins
from vision_language.metrics import (
    average_precision,
    iou,
    overall_iou,
    overlap,
    points_in,
    recall_at,
    scaled_average_precision,
    yes_no_scores,
)

SHARED = next((p / "shared" for p in Path(__file__).parents if (p / "shared" / "data").is_dir()), None)
shared = pytest.mark.skipif(SHARED is None, reason="the published question files are not at hand")


@shared
def test_all_questions_of_pope_parse():
    total = 0
    for kind in ("random", "popular", "adversarial"):
        questions = read_pope(SHARED / "data" / "var_sink" / "pope_coco" / f"coco_pope_{kind}.json")
        total += len(questions.questions)
        assert questions.edition == "3,000 questions"
    assert total == 9000


@shared
def test_all_pairs_of_sugarcrepe_parse():
    pairs = read_sugarcrepe(SHARED / "data" / "focallens" / "sugarcrepe")
    assert len(pairs) == 7511
    assert len({pair.name for pair in pairs}) == 7511


@pytest.mark.parametrize(
    ("response", "strict", "published"),
    [
        ("Yes, there is.", "yes", "yes"),
        ("No.", "no", "no"),
        ("There isn't one", None, "yes"),
        ("no, there isn't", "no", "no"),
        ("Maybe", None, "yes"),
        ("Yes and no", None, "no"),
        ("A dog. No cat", None, "yes"),
        ("", None, "yes"),
        ("not that I see", "no", "no"),
        ("Another one", None, "yes"),
    ],
)
def test_answers_that_say_neither_are_not_guessed(response, strict, published):
    if response == "There isn't one":
        strict = "no"
    assert yes_or_no(response) == strict
    assert yes_or_no(response, "published") == published


def pope_lines(path, count, **more):
    rows = [
        {"question_id": n, "image": f"{n // 6}.jpg", "text": "Is there a cat?", "label": "yes" if n % 2 else "no"}
        for n in range(count)
    ]
    path.write_text("".join(json.dumps(row | more) + "\n" for row in rows))
    return path


def test_editions_are_told_apart(tmp_path):
    assert read_pope(pope_lines(tmp_path / "a", 2910)).edition.startswith("older edition")
    assert read_pope(pope_lines(tmp_path / "b", 3000)).edition == "3,000 questions"
    assert "neither published edition" in read_pope(pope_lines(tmp_path / "c", 12)).edition
    with pytest.raises(UserError, match="ids occur again"):
        read_pope(pope_lines(tmp_path / "d", 12, question_id=1))
    with pytest.raises(UserError, match="'maybe', expected yes or no"):
        read_pope(pope_lines(tmp_path / "e", 12, label="maybe"))


def test_unanswered_questions_are_counted_and_ambiguous_ones_wrong(tmp_path):
    questions = read_pope(pope_lines(tmp_path / "q", 4)).questions
    answers = tmp_path / "a.jsonl"
    answers.write_text(
        "".join(
            json.dumps({"question_id": n, "response": text}) + "\n" for n, text in ((0, "no"), (1, "maybe"), (2, "yes"))
        )
    )
    rows, unanswered = judge(questions, read_answers(answers), "strict")
    assert unanswered == ["3"]
    scores = yes_no_scores([row["said"] for row in rows], [row["label"] for row in rows])
    assert scores["accuracy"] == pytest.approx(1 / 3)
    assert scores["ambiguous"] == pytest.approx(1 / 3)
    assert scores["yes"] == pytest.approx(1 / 3)


def test_yes_no_scores_by_hand():
    scores = yes_no_scores(["yes", "yes", "no", "no"], ["yes", "no", "yes", "no"])
    assert scores == {"accuracy": 0.5, "precision": 0.5, "recall": 0.5, "f1": 0.5, "yes": 0.5, "ambiguous": 0.0}
    assert np.isnan(yes_no_scores(["no"], ["yes"])["precision"])


def test_overlap_by_hand():
    a, b = np.zeros((2, 4, 4), bool)
    assert iou(a, b) == 1
    a[:2] = True
    assert iou(a, b) == 0
    b[1:3] = True
    assert iou(a, b) == 4 / 12
    assert overall_iou([overlap(a, b), (0, 4)]) == 4 / 16
    assert points_in((3.99, 0.5), a)
    assert not points_in((0.5, 3.0), a)


def test_rankings_by_hand():
    relevant = np.array([True, False, True, False])
    assert average_precision(relevant) == pytest.approx((1 + 2 / 3) / 2)
    assert scaled_average_precision(np.array([True, True, False, False])) == 1
    assert np.isnan(scaled_average_precision(np.array([False, False])))
    assert recall_at(0, 1) == 1
    assert recall_at(2, 2) == 0
    assert rank_of(0.5, [0.6, 0.5, 0.1]) == 2
    assert mmvp_hit([[0.9, 0.1], [0.2, 0.3]])
    assert not mmvp_hit([[0.9, 0.1], [0.5, 0.3]])


def test_chair_counts_hallucinated_mentions():
    synonyms = {"dog": "dog", "hot dog": "hot dog", "puppy": "dog", "couch": "couch"}
    assert mentioned("Two dogs, a puppy and a hot dog.", synonyms) == ["hot dog", "dog", "dog"]
    rows = chair({"a": "a dog on a couch", "b": "a dog"}, {"a": {"dog"}, "b": {"dog"}}, synonyms)
    assert [row["hallucinated"] for row in rows] == [1, 0]
    assert rows[0]["wrong"] == ["couch"]


def test_mmvp_and_genecis_files(tmp_path):
    path = tmp_path / "Questions.csv"
    path.write_text("Question ID,Type,Statement\n1,Colour,a red cup\n2,Colour,a blue cup\n")
    (pair,) = read_mmvp(path)
    assert pair.statements == ("a red cup", "a blue cup")
    path.write_text("Question ID,Type,Statement\n1,Colour,a red cup\n2,State,an open door\n")
    with pytest.raises(UserError, match="pair of two kinds"):
        read_mmvp(path)
    query = {
        "reference": {"val_image_id": 7},
        "target": {"val_image_id": 9},
        "gallery": [{"val_image_id": 8}],
        "condition": "colour",
    }
    (tmp_path / "g.json").write_text(json.dumps([query]))
    (read,) = read_genecis(tmp_path / "g.json")
    assert (read.reference, read.target, read.gallery) == ("7", "9", ("8",))


def test_blind_captions(tmp_path):
    (tmp_path / "add_obj.json").write_text(
        json.dumps({"0": {"filename": "a.jpg", "caption": "a cat", "negative_caption": "a cat and a dog"}})
    )
    (pair,) = read_sugarcrepe(tmp_path)
    assert shorter_wins(pair) == 1
    assert commoner_wins(pair, {"a": 3, "cat": 2, "dog": 1}) == 1
    with pytest.raises(UserError, match="holds none of SugarCrepe"):
        read_sugarcrepe(tmp_path / "..")
