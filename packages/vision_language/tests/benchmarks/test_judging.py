"""CHAIR, MMVP-VLM and GeneCIS through `evaluate`, on pictures that are drawn here."""

import json

import pytest
from PIL import Image

from core_runtime.errors import UserError
from vision_language.benchmarks.judging import judge_genecis, judge_mmvp
from vision_language.commands.evaluate import Reading, evaluate
from vision_language.model.retrieval import tiny_embedder


def lines(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_chair_by_hand(tmp_path):
    (tmp_path / "synonyms.txt").write_text("dog, puppy\ncouch, sofa\n")
    content = {
        "images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}],
        "categories": [{"id": 7, "name": "dog"}],
        "annotations": [{"image_id": 1, "category_id": 7}, {"image_id": 2, "category_id": 7}],
    }
    (tmp_path / "instances_val.json").write_text(json.dumps(content))
    captions = {"images": content["images"], "annotations": [{"image_id": 2, "caption": "A sofa."}]}
    (tmp_path / "captions_val.json").write_text(json.dumps(captions))
    answers = lines(
        tmp_path / "answers.jsonl",
        {"image": "a.jpg", "caption": "A puppy on a couch."},
        {"image": "b.jpg", "caption": "A puppy on a couch."},
        {"image": "c.jpg", "caption": "A dog."},
    )
    judged = evaluate("chair", tmp_path, reading=Reading(answers=answers), resamples=20, out=tmp_path / "e")
    assert judged.table["answers"]["CHAIR_s"]["value"] == 0.5
    assert judged.table["answers"]["CHAIR_i"]["value"] == 0.25
    assert judged.missing == 1
    assert list(judged.table) == ["commonest objects", "answers"]
    with pytest.raises(UserError, match="judges captions in a file"):
        evaluate("chair", tmp_path, out=tmp_path / "f")


@pytest.fixture
def embedder():
    return tiny_embedder(["a red cup", "a blue cup", "colour"])


def test_mmvp_counts_pairs_without_pictures(tmp_path, embedder):
    (tmp_path / "Questions.csv").write_text(
        "Question ID,Type,Statement\n1,Colour,a red cup\n2,Colour,a blue cup\n3,Colour,a red cup\n4,Colour,a blue cup\n"
    )
    folder = tmp_path / "MLLM_VLM Images" / "Colour"
    folder.mkdir(parents=True)
    with pytest.raises(UserError, match="none of the 2 pairs"):
        judge_mmvp(tmp_path, embedder, None, 0)
    Image.new("RGB", (8, 8), "red").save(folder / "1.jpg")
    Image.new("RGB", (8, 8), "blue").save(folder / "2.jpg")
    judged = judge_mmvp(tmp_path, embedder, None, 0)
    assert judged.missing == 1
    assert [row["predictor"] for row in judged.rows] == ["coin", "model"]


def test_genecis_finds_a_target_that_equals_its_reference(tmp_path, embedder):
    for name, colour in (("000000000007", "red"), ("9", "red"), ("8", "blue")):
        Image.new("RGB", (8, 8), colour).save(tmp_path / f"{name}.png")
    query = {"reference": {"val_image_id": 7}, "target": 9, "gallery": [8], "condition": "colour"}
    (tmp_path / "g.json").write_text(json.dumps([query, query | {"target": 99}]))
    judged = judge_genecis(tmp_path / "g.json", embedder, tmp_path, 0)
    assert judged.missing == 1
    recall = {row["predictor"]: row["R@1"] for row in judged.rows}
    assert recall["model"] == recall["no instruction"] == 1
    with pytest.raises(UserError, match="needs its pictures"):
        judge_genecis(tmp_path / "g.json", embedder, None, 0)
