import io
import json
import pickle

import numpy as np
import pytest
from PIL import Image

from core_runtime.boxes import CUT, LEFT_OUT, BoxedImage, BoxSet, coco_of, fit_box, read_coco
from core_runtime.errors import UserError
from core_runtime.folders import write_text
from core_runtime.identity import begun
from core_runtime.image_sets import ImageSetOptions, open_images, set_fingerprint
from core_runtime.pictures import open_picture


def draw(path, colour=(200, 20, 20), size=(9, 7), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).convert(mode).save(path)
    return path


def folders(root, parts=("",)):
    for part in parts:
        for label in ("cat", "dog"):
            for number in range(2):
                draw(root / part / label / f"{number}.png", (number * 100, 90, 10 if label == "cat" else 200))
    return root


def test_class_folders(tmp_path):
    images = open_images(folders(tmp_path))
    assert images.classes == ("cat", "dog")
    assert images.labels == (0, 0, 1, 1)
    assert set(images.parts) == {""}
    assert images.picture(3).size == (9, 7)
    assert len(set(images.digests)) == 4


def test_class_folders_of_parts(tmp_path):
    images = open_images(folders(tmp_path, ("train", "valid", "test")))
    assert images.parts.count("val") == 4
    assert images.counts([0, 1, 2]) == {"cat": 2, "dog": 1}


def test_a_folder_that_wraps_the_classes_is_looked_into(tmp_path):
    folders(tmp_path / "download" / "data" / "images", ("train", "test"))
    draw(tmp_path / "download" / "overview.png")
    images = open_images(tmp_path / "download")
    assert images.classes == ("cat", "dog")
    assert images.parts.count("train") == 4
    assert images.notes == ("data/images of download is read: nothing else there holds classes",)
    folders(tmp_path / "one")
    for number in range(2):
        (tmp_path / "one" / "dog" / f"{number}.png").unlink()
    (tmp_path / "one" / "dog").rmdir()
    assert open_images(tmp_path / "one").classes == ("cat",)


def test_pictures_without_classes(tmp_path):
    draw(tmp_path / "a.png")
    images = open_images(tmp_path)
    assert images.kind == "pictures"
    assert images.labels == (-1,)


def test_results_among_the_pictures_are_no_classes_and_other_formats_are_named(tmp_path, capsys):
    draw(tmp_path / "a.png")
    (tmp_path / "b.HEIC").write_bytes(b"of a telephone")
    output = tmp_path / "parts" / "images.csv"
    with begun(output, {}):
        output.write_text("")
    assert open_images(tmp_path).names == ("a.png",)
    assert "1 pictures are left out: .heic cannot be read" in capsys.readouterr().err
    draw(tmp_path / "parts" / "own.png")  # of the user, among results
    assert open_images(tmp_path).classes == ("parts",)


def test_a_class_without_images_and_a_class_of_one_part_are_refused(tmp_path):
    folders(tmp_path / "a")
    (tmp_path / "a" / "bird").mkdir()
    with pytest.raises(UserError, match="bird holds no image"):
        open_images(tmp_path / "a")
    folders(tmp_path / "b", ("train", "test"))
    draw(tmp_path / "b" / "test" / "bird" / "0.png")
    with pytest.raises(UserError, match="the class 'bird', which"):
        open_images(tmp_path / "b")


def test_a_table_of_files(tmp_path):
    folders(tmp_path)
    write_text(tmp_path / "list.csv", "file,label,split\ncat/0.png,tabby,train\ndog/1.png,hound,test\n")
    images = open_images(tmp_path / "list.csv")
    assert images.classes == ("hound", "tabby")
    assert images.labels == (1, 0)
    assert images.parts == ("train", "test")
    write_text(tmp_path / "clipart_train.txt", "cat/0.png 7\ndog/0.png 12\n")
    listed = open_images(tmp_path / "clipart_train.txt")
    assert listed.classes == ("7", "12")
    assert listed.parts == ("train", "train")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("file,label\nnone.png,a\n", "1 of 1 files are not there: none.png"),
        ("file,label,split\ncat/0.png,a,dev\n", "'dev' is not a part"),
        ("file,label\ncat/0.png,a\ncat/0.png,b\n", "names 1 file twice"),
        ("picture\ncat/0.png\n", "no column 'file'"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path, text, words):
    folders(tmp_path)
    write_text(tmp_path / "list.csv", text)
    with pytest.raises(UserError, match=words):
        open_images(tmp_path / "list.csv")


def test_npz_of_parts_and_without(tmp_path):
    rng = np.random.default_rng(0)
    colours, grey = rng.integers(0, 255, (5, 6, 6, 3), np.uint8), rng.random((4, 8, 8)) * 16
    np.savez(
        tmp_path / "med.npz",
        train_images=colours[:3],
        train_labels=[[0], [2], [1]],
        test_images=colours[3:],
        test_labels=[[0], [0]],
    )
    images = open_images(tmp_path / "med.npz")
    assert images.parts == ("train",) * 3 + ("test",) * 2
    assert images.classes == ("0", "1", "2")
    np.testing.assert_array_equal(np.asarray(images.picture(4).image), colours[4])
    np.savez(tmp_path / "digits.npz", images=grey, labels=[0, 1, 1, 0])
    with pytest.raises(UserError, match=r"float64 from 0\.\d+ to 15"):
        open_images(tmp_path / "digits.npz")
    digits = open_images(tmp_path / "digits.npz", ImageSetOptions(white=16, class_names=("zero", "one")))
    assert digits.classes == ("zero", "one")
    assert digits.picture(0).grey
    np.testing.assert_array_equal(digits.pixels[..., 0], np.round(grey * 255 / 16))


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"a": np.zeros((2, 3, 3))}, "no images under a known name"),
        ({"images": np.full((2, 3, 3), np.nan), "labels": [0, 1]}, "18 pixels that are not finite"),
        ({"images": np.zeros((2, 3, 3), np.uint8), "labels": [0]}, "images has 2 entries, labels has 1"),
        ({"images": np.zeros((2, 3, 3), np.uint8), "labels": [[0, 1], [1, 0]]}, "2 labels per image"),
        ({"images": np.zeros((2, 3, 3, 5), np.uint8), "labels": [0, 1]}, "are not understood"),
        ({"images": np.zeros((2, 3, 3), np.uint8), "labels": [0, 0.5]}, "whole numbers"),
        ({"images": np.zeros((2, 3, 3), np.uint8), "labels": [0, np.nan]}, "whole numbers"),
        ({"images": np.zeros((2, 3, 3), np.uint8), "labels": ["cat", "dog"]}, "whole numbers"),
        ({"images": np.zeros((2, 3, 3), np.uint8), "labels": 1}, "labels is a single value"),
        ({"images": np.array([{}, {}], object), "labels": [0, 1]}, "cannot be read"),
    ],
)
def test_npz_files_that_cannot_be_used(tmp_path, arrays, words):
    np.savez(tmp_path / "set.npz", **arrays)
    with pytest.raises(UserError, match=words):
        open_images(tmp_path / "set.npz")


@pytest.mark.parametrize("fine", [False, True])
def test_cifar(tmp_path, fine):
    planes = np.random.default_rng(0).integers(0, 255, (3, 3, 32, 32), np.uint8)
    label_key, names_key = ("fine_labels", "fine_label_names") if fine else ("labels", "label_names")
    batch = {"data": planes.reshape(3, -1), label_key: [0, 1, 1]}
    names = {"meta": {names_key: ["apple", "bear"]}, "train": batch, "test": batch}
    if not fine:
        names = {"batches.meta": names["meta"], "data_batch_1": batch, "test_batch": batch}
    for name, value in names.items():
        (tmp_path / name).write_bytes(pickle.dumps(value, protocol=2))
    images = open_images(tmp_path)
    assert images.classes == ("apple", "bear")
    assert images.parts == ("train",) * 3 + ("test",) * 3
    np.testing.assert_array_equal(images.pixels[1], planes[1].transpose(1, 2, 0))
    assert bool(images.notes) is not fine  # four of CIFAR-10's batches are missing


def test_a_sprite_sheet(tmp_path):
    sheet = np.repeat(np.arange(4 * 6, dtype=np.uint8).reshape(4, 6), 5, 0).repeat(5, 1)
    Image.fromarray(sheet).save(tmp_path / "sheet.png")
    images = open_images(
        tmp_path / "sheet.png", ImageSetOptions(tile=5, rows_per_class=2, class_names=("shirt", "boot"))
    )
    assert len(images) == 24
    assert images.pixels.shape == (24, 5, 5, 1)
    assert images.pixels[:, 2, 2, 0].tolist() == list(range(24))
    assert images.labels == (0,) * 12 + (1,) * 12
    assert images.parts[:6] == ("train",) * 4 + ("val", "test")
    for how, words in (
        (ImageSetOptions(tile=7), "not whole images"),
        (ImageSetOptions(tile=5), "nothing says which class"),
        (ImageSetOptions(tile=5, rows_per_class=3), "not whole classes"),
    ):
        with pytest.raises(UserError, match=words):
            open_images(tmp_path / "sheet.png", how)


def test_a_fingerprint_notices_a_label_and_a_pixel(tmp_path):
    images = np.zeros((2, 4, 4), np.uint8)
    prints = set()
    for changed in (images, images + 1):
        for labels in ([0, 1], [1, 0]):
            np.savez(tmp_path / "set.npz", images=changed, labels=labels)
            prints.add(set_fingerprint(open_images(tmp_path / "set.npz")))
    assert len(prints) == 4


@pytest.mark.parametrize(
    ("mode", "note"), [("L", ""), ("CMYK", "CMYK became RGB"), ("I;16", "16 bits"), ("P", ""), ("RGBA", "")]
)
def test_pictures_of_every_mode_are_8_bit_colour(tmp_path, mode, note):
    path = tmp_path / "a.tif"
    if mode == "I;16":
        Image.fromarray(np.full((5, 4), 30000, np.uint16)).save(path)
    else:
        draw(path, size=(4, 5), mode=mode)
    picture = open_picture(path)
    assert picture.image.mode == "RGB"
    assert picture.size == (4, 5)
    assert picture.grey == (mode in ("L", "I;16"))
    assert note in " ".join(picture.notes)


def test_exif_turns_a_picture_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 4)).save(tmp_path / "a.jpg", exif=exif)
    picture = open_picture(tmp_path / "a.jpg")
    assert picture.size == (4, 8)
    assert "upright" in picture.notes[0]


def test_pictures_that_cannot_be_used(tmp_path):
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(stream, "PNG")
    (tmp_path / "cut.png").write_bytes(stream.getvalue()[:3000])
    (tmp_path / "text.png").write_text("no picture")
    Image.fromarray(np.full((4, 4), np.nan, np.float32)).save(tmp_path / "nan.tif")
    for name, words in (
        ("cut.png", "damaged"),
        ("text.png", "not a picture"),
        ("nan.tif", "16 pixels that are not finite"),
    ):
        with pytest.raises(UserError, match=words):
            open_picture(tmp_path / name)
    draw(tmp_path / "set" / "one" / "dot.png", size=(1, 1))
    with pytest.raises(UserError, match="1 × 1 pixels"):
        open_images(tmp_path / "set").picture(0)


def test_boxes_are_cut_or_left_out():
    assert fit_box((1, 2, 3, 4), (10, 10)) == ((1, 2, 3, 4), "")
    assert fit_box((-1, 2, 30, 4), (10, 10)) == ((0, 2, 10, 4), CUT)
    for box in ((11, 2, 13, 4), (3, 3, 3, 5), (5, 5, 4, 9), (float("nan"), 1, 2, 3)):
        assert fit_box(box, (10, 10)) == (None, LEFT_OUT)


def test_coco_there_and_back(tmp_path):
    draw(tmp_path / "images" / "a.png", size=(20, 10))
    image = BoxedImage(
        "a.png", tmp_path / "images" / "a.png", (20, 10), ((1, 2, 8, 9.5), (0, 0, 3, 3)), (1, 0), (False, True), "train"
    )
    first = BoxSet(tmp_path, "COCO", ("cat", "dog"), (image,), category_ids=(3, 17))
    write_text(tmp_path / "set.json", json.dumps(coco_of(first)))
    back = read_coco(tmp_path / "set.json")
    assert back.images == first.images
    assert back.category_ids == (3, 17)
    assert back.counts() == {"cat": 1, "dog": 1}


def test_coco_files_that_cannot_be_used(tmp_path):
    good = {
        "images": [{"id": 1, "file_name": "a.png", "width": 10, "height": 10}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [
            {"id": 5, "image_id": 1, "category_id": 1, "bbox": [8, 8, 5, 5]},
            {"id": 6, "image_id": 1, "category_id": 1, "bbox": [1, 1, 0, 5]},
        ],
    }
    write_text(tmp_path / "set.json", json.dumps(good))
    images = read_coco(tmp_path / "set.json")
    assert images.images[0].boxes == ((8, 8, 10, 10),)
    assert images.warnings() == [f"{CUT}: 1 (a.png)", f"{LEFT_OUT}: 1 (a.png)"]
    for change, words in (
        ({"categories": []}, "no category 1"),
        ({"images": [{"id": 1, "file_name": "a.png", "width": 0, "height": 10}]}, "width is 0"),
        ({"annotations": [{"id": 5, "image_id": 1, "category_id": 1, "bbox": [8, 8]}]}, "annotation 5: bbox is"),
        ({"annotations": None}, "annotations is missing"),
    ):
        write_text(tmp_path / "set.json", json.dumps(good | change))
        with pytest.raises(UserError, match=words):
            read_coco(tmp_path / "set.json")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04rubbish", b"\x93NUMPY", b"text"])
def test_damaged_npz_files_are_one_line(tmp_path, content):
    (tmp_path / "set.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"set\.npz"):
        open_images(tmp_path / "set.npz")


def test_an_npz_that_was_cut_or_changed_is_one_line(tmp_path):
    np.savez_compressed(tmp_path / "set.npz", images=np.zeros((4, 6, 6), np.uint8), labels=np.arange(4))
    whole = (tmp_path / "set.npz").read_bytes()
    for number in range(0, len(whole), max(1, len(whole) // 25)):
        (tmp_path / "set.npz").write_bytes(whole[:number])
        with pytest.raises(UserError, match=r"set\.npz"):
            open_images(tmp_path / "set.npz")


def test_links_to_nothing_are_named_and_left_out(tmp_path, capsys):
    from core_runtime.pictures import find_pictures

    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "broken.png").symlink_to(tmp_path / "nowhere.png")
    assert [file.name for file in find_pictures(tmp_path)] == ["a.png"]
    assert "1 link to files that are not there, left out: broken.png" in capsys.readouterr().err
