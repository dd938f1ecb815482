import csv
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from core_runtime.errors import UserError
from core_runtime.options import BulkOptions
from pathology_mil.cohort.cohort import open_cohort
from pathology_mil.features import encoding
from pathology_mil.features.bags import find_bags, open_bag
from pathology_mil.features.encoders import build, pairing_warning
from pathology_mil.features.encoding import Storage, encode_slides, stream
from pathology_mil.features.options import EncoderOptions
from pathology_mil.features.texture import DIM, colour_texture
from pathology_mil.slides import tiling
from pathology_mil.slides.options import TileOptions, Tiling, TissueParams
from pathology_mil.slides.reading import Slide, find_slides
from pathology_mil.slides.tiles import read_tiles
from pathology_mil.slides.tiling import tile_slides

PARAMS = Tiling(TileOptions(patch_size=256, mag=5))
ENCODE = (EncoderOptions(encoder="colour-texture"), Storage())


def tile(samples, job, params=PARAMS, **options):
    return tile_slides(find_slides(samples / "slides"), job, params, **options)


@pytest.fixture(scope="module")
def job(samples, tmp_path_factory):
    folder = tmp_path_factory.mktemp("job")
    _, outcomes = tile(samples, folder)
    assert all(o.ok for o in outcomes)
    encode_slides(folder, *ENCODE)
    return folder


def content(folder: Path) -> dict[str, bytes]:
    """What a job folder holds, file by file; the attributes that name folders of this machine are left out."""
    found = {}
    for path in sorted(folder.rglob("*.h5")):
        with h5py.File(path) as file:
            for key, data in file.items():
                attributes = {k: str(v) for k, v in sorted(data.attrs.items()) if k not in ("savetodir", "save_path")}
                found[f"{path.relative_to(folder)}/{key}"] = data[:].tobytes() + repr(attributes).encode()
    for path in sorted(folder.rglob("*.geojson")):
        found[str(path.relative_to(folder))] = path.read_bytes()
    return found


def test_features_are_those_of_each_tile(samples, job):
    bag = open_bag(next((job / PARAMS.tiles.folder / "features_colour-texture").glob("*.h5")))
    tiles = read_tiles(PARAMS.tiles.file(job, bag.slide_id))
    np.testing.assert_array_equal(bag.coords, tiles.coords)
    assert (bag.features.dtype, bag.features.shape[1], bag.encoder, bag.side) == (
        np.float16,
        DIM,
        "colour-texture",
        tiles.side,
    )
    with Slide(next((samples / "slides").glob(f"{bag.slide_id}.*"))) as slide:
        x, y = tiles.coords[-1].tolist()
        one = colour_texture(slide.read_tile(x, y, side=tiles.side, size=256))
    np.testing.assert_array_equal(bag.features[len(bag) - 1], one.astype(np.float16))


def test_colour_texture_is_finite_on_any_tile():
    rng = np.random.default_rng(0)
    for tile in (
        np.full((64, 64, 3), 255),
        np.zeros((64, 64, 3)),
        rng.integers(0, 255, (64, 64, 3)),
        np.ones((1, 1, 3)),
    ):
        got = colour_texture(tile.astype(np.uint8))
        assert got.shape == (DIM,)
        assert np.isfinite(got).all()


def test_a_rerun_does_nothing_and_changed_parameters_are_refused(samples, job):
    before = content(job)
    _, outcomes = tile(samples, job)
    assert {o.status for o in outcomes} == {"already done"}
    _, outcomes = encode_slides(job, *ENCODE)
    assert {o.status for o in outcomes} == {"already done"}
    stricter = replace(PARAMS, tissue=replace(PARAMS.tissue, sthresh=20))
    with pytest.raises(UserError, match=r"tissue\.sthresh \(8, now 20\)"):
        tile(samples, job, stricter)
    with pytest.raises(UserError, match=r"another dtype \(float16, now float32\)"):
        encode_slides(job, ENCODE[0], Storage(dtype="float32"))
    assert content(job) == before


def test_new_tiles_make_old_features_void(samples, tmp_path):
    tile(samples, tmp_path)
    encode_slides(tmp_path, *ENCODE)
    other = replace(PARAMS, tissue=replace(PARAMS.tissue, sthresh=20))
    tile(samples, tmp_path, other, run=BulkOptions(overwrite=True))
    with pytest.raises(UserError, match="another tiles"):
        encode_slides(tmp_path, *ENCODE)
    _, outcomes = encode_slides(tmp_path, *ENCODE, run=BulkOptions(overwrite=True))
    assert {o.status for o in outcomes} == {"done"}


class Killed(BaseException):
    pass


@pytest.mark.parametrize("at", [1, 3])
def test_an_interrupted_run_is_finished_by_the_next(samples, job, tmp_path, monkeypatch, at):
    """The process stops inside the writing of a file; nothing half-made stays, and the rerun equals an uninterrupted run."""

    def dies_at(real, n):
        calls = []

        def wrapped(*args, **kwargs):
            calls.append(1)
            if len(calls) == n:
                raise Killed
            return real(*args, **kwargs)

        return wrapped

    for module, name, run in (
        (tiling, "write_tiles", lambda: tile(samples, tmp_path)),
        (encoding.np, "isfinite", lambda: encode_slides(tmp_path, *ENCODE)),  # in the middle of a file
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, dies_at(getattr(module, name), at))
            with pytest.raises(Killed):
                run()
        run()
    assert content(tmp_path) == content(job)


@pytest.mark.slow
def test_kills_at_random_moments(samples, job, tmp_path):
    """SIGKILL at ten random moments of tile and encode; the last run equals an uninterrupted one."""
    rng = np.random.default_rng(0)
    command = [sys.executable, "-c", "from pathology_mil.cli import main; main()"]
    steps = [
        ["tile", samples / "slides", "--out", tmp_path, "--mag", "5"],
        ["encode", tmp_path, "--encoder", "colour-texture"],
    ]
    for step in steps:
        began = time.monotonic()
        subprocess.run([*command, *map(str, step)], check=True, capture_output=True)
        whole = time.monotonic() - began
        for path in tmp_path.rglob("*.h5"):
            if step[0] == "tile" or "features" in str(path):
                path.unlink()
        for _ in range(5):
            process = subprocess.Popen(
                [*command, *map(str, step)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            time.sleep(rng.uniform(0.3, 1.0) * whole)
            process.kill()
            process.wait()
        subprocess.run([*command, *map(str, step)], check=True, capture_output=True)
    assert content(tmp_path) == content(job)
    assert not list(tmp_path.rglob("*.part")), "killed writers leave nothing"


def test_a_folder_with_bad_slides_goes_on(samples, tmp_path, cli):
    slides = tmp_path / "slïdes/nested"
    slides.mkdir(parents=True)
    for path in sorted((samples / "slides").glob("*.svs"))[:1]:
        os.link(path, slides / path.name)
    (slides / "text.svs").write_text("no slide")
    blank = np.full((600, 800, 3), 244, np.uint8)
    from pathology_mil.samples.pyramid import write_pyramid

    write_pyramid(slides / "blank.svs", blank, downsamples=(4,), mpp=0.5, aperio=True)
    code, _, err = cli("tile", slides.parent, "--out", tmp_path / "job")
    assert code == 1
    assert "failed: text: text.svs: not a slide" in err
    assert "no tissue: blank" in err
    assert "1 of 3 done" in err
    code, _, err = cli("encode", tmp_path / "job", "--encoder", "colour-texture")
    assert code == 1
    assert "no tissue: blank" in err
    bags = find_bags(tmp_path / "job/20x_256px_0px_overlap/features_colour-texture")
    assert {k: len(b.open()) > 0 for k, b in bags.items()} == {"blank": False, "sample_001": True}
    table = (tmp_path / "job/20x_256px_0px_overlap/slides.csv").read_text()
    assert "text" in table
    assert "failed" in table


def test_clam_job_folder(samples, tmp_path):
    params = replace(PARAMS, tiles=replace(PARAMS.tiles, layout="clam"))
    tile(samples, tmp_path, params)
    table = (tmp_path / "process_list_autogen.csv").read_text().splitlines()
    assert table[0].startswith("slide_id,process,status,seg_level,sthresh,mthresh,close,use_otsu")
    assert table[1].startswith("sample_001.svs,0,processed,-1,8,7,4,False")
    assert {p.name for p in tmp_path.iterdir()} >= {"masks", "stitches", "patches"}
    folder, _ = encode_slides(tmp_path, ENCODE[0], Storage(dtype="float32"))
    assert folder == tmp_path / "features_colour-texture/h5_files"
    tensor = torch.load(folder.parent / "pt_files/sample_001.pt", weights_only=True)
    bag = open_bag(folder / "sample_001.h5")
    assert tensor.dtype == torch.float32
    np.testing.assert_array_equal(tensor.numpy(), bag.features)
    assert list(find_bags(folder.parent)) == [f"sample_00{i}" for i in (1, 2, 3, 4)]


def test_an_edited_process_list_is_read_back(samples, tmp_path, cli):
    params = ("--layout", "clam", "--mag", 10, "--out", tmp_path, "--workers", 1)
    assert cli("tile", samples / "slides", *params)[0] == 0
    table = tmp_path / "process_list_autogen.csv"
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    before = {r["slide_id"]: int(r["tiles"]) for r in rows}
    rows[1] |= {"process": "1", "sthresh": "60", "contour_fn": "four_pt_hard", "max_n_holes": ""}
    edited = tmp_path / "edited.csv"
    with edited.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    code, out, _ = cli("tile", samples / "slides", *params, "--process-list", edited, "--json")
    assert code == 0
    assert [r["slide_id"] for r in json.loads(out)["slides"]] == [Path(rows[1]["slide_id"]).stem]
    with table.open(newline="") as file:
        after = {r["slide_id"]: r for r in csv.DictReader(file)}
    name = rows[1]["slide_id"]
    assert int(after[name]["tiles"]) < before.pop(name)
    assert (after[name]["sthresh"], after[name]["contour_fn"], after[name]["max_n_holes"]) == (
        "60",
        "four_pt_hard",
        "8",
    )
    assert {n: int(after[n]["tiles"]) for n in before} == before


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("name\nx", "no column 'slide_id'"),
        ("slide_id,process\na.svs,0", "names no slide to process"),
        ("slide_id\na.svs\na.tif", "slide a is listed twice"),
        ("slide_id,sthresh\na.svs,eight", "line 2: invalid literal"),
        ("slide_id,use_otsu\na.svs,maybe", "line 2: maybe"),
        ("slide_id,mthresh\na.svs,4", "must be odd"),
        ("slide_id\nelsewhere.svs", "names elsewhere: no such slide"),
    ],
)
def test_unusable_process_lists_are_one_line(samples, tmp_path, cli, lines, message):
    (tmp_path / "list.csv").write_text(lines)
    code, _, err = cli("tile", samples / "slides", "--out", tmp_path / "job", "--process-list", tmp_path / "list.csv")
    assert code == 2
    assert message in err
    assert not (tmp_path / "job").exists()


def test_a_model_notes_how_its_tiles_were_cut(samples, tmp_path):
    params = Tiling(TileOptions(patch_size=128, mag=5, min_tissue=0.25), TissueParams(sthresh=12, keep_ids=(0,)))
    tile(samples, tmp_path, params)
    features, _ = encode_slides(tmp_path / params.tiles.folder, *ENCODE)
    noted = open_cohort(features, samples / "labels.csv").preprocessing["tiles"]
    assert Tiling.of(json.loads(json.dumps(noted))) == params


def test_tissue_mended_in_qupath_is_read_back(samples, job, tmp_path):
    _, outcomes = tile(samples, tmp_path, tissue_from=job / "contours_geojson")
    assert all(o.ok for o in outcomes)
    for slide in find_slides(samples / "slides"):
        ours = read_tiles(PARAMS.tiles.file(job, slide.slide_id)).coords
        again = read_tiles(PARAMS.tiles.file(tmp_path, slide.slide_id)).coords
        assert len({*map(tuple, ours)} ^ {*map(tuple, again)}) <= 2
    with pytest.raises(UserError, match="another tissue_file"):
        tile(samples, tmp_path)
    with pytest.raises(UserError, match="holds no tissue of"):
        tile(samples, tmp_path / "x", tissue_from=samples)


def test_tiles_are_streamed(samples, job, monkeypatch):
    """However many tiles: never more than a few batches are read ahead."""
    slide_id = "sample_001"
    tiles = read_tiles(PARAMS.tiles.file(job, slide_id))
    many = replace(tiles, coords=np.repeat(tiles.coords, 8, axis=0))
    with Slide(samples / "slides/sample_001.svs") as slide:
        read = []
        real = slide.read_tile
        monkeypatch.setattr(slide, "read_tile", lambda *a, **k: (read.append(1), real(*a, **k))[1])
        blocks = stream(slide, many, size=64, batch=8, readers=2)
        first = next(blocks)
        assert first.shape == (8, 64, 64, 3)
        assert len(read) <= 24
        assert sum(map(len, blocks)) + 8 == len(many.coords)


def test_moved_slides_are_asked_for(samples, job, tmp_path):
    import shutil

    shutil.copytree(job, tmp_path / "job")
    for path in (tmp_path / "job").rglob("*_patches.h5"):
        with h5py.File(path, "a") as file:
            file["coords"].attrs["slide_path"] = "/gone/slide.svs"
    _, outcomes = encode_slides(tmp_path / "job", *ENCODE, run=BulkOptions(overwrite=True))
    assert all("--slides" in o.message for o in outcomes)
    _, outcomes = encode_slides(tmp_path / "job", *ENCODE, slides=samples / "slides", run=BulkOptions(overwrite=True))
    assert all(o.ok for o in outcomes)


def test_encoders_need_weights_or_a_word(tmp_path):
    for wrong in (
        {"encoder": "uni"},
        {"encoder": "timm:resnet18"},
        {"encoder": "colour-texture", "random_weights": True},
        {"encoder": "timm:resnet18", "weights": tmp_path / "absent.pth"},
        {"encoder": "timm:resnet18", "random_weights": True, "known_as": "nobody"},
    ):
        with pytest.raises(UserError):
            EncoderOptions(**wrong)
    for name in ("timm:no_such_network", "timm:resnet18?nonsense=1", "torchvision:no_such", "keras:x"):
        with pytest.raises(UserError, match=r"cannot build|unknown library"):
            build(EncoderOptions(encoder=name, random_weights=True))


def test_a_network_and_its_weights(tmp_path):
    import timm

    torch.manual_seed(1)
    network = timm.create_model("test_vit", num_classes=10).eval()
    torch.save({"model": network.state_dict()}, tmp_path / "w.pth")
    encoder = build(EncoderOptions(encoder="timm:test_vit", weights=tmp_path / "w.pth"))
    tiles = np.random.default_rng(0).integers(0, 255, (3, encoder.size, encoder.size, 3), dtype=np.uint8)
    got = encoder.encode(tiles)
    assert got.shape == (3, encoder.dim)
    assert not np.allclose(got, build(EncoderOptions(encoder="timm:test_vit", random_weights=True)).encode(tiles))
    np.testing.assert_array_equal(
        build(EncoderOptions(encoder="timm:test_vit", random_weights=True)).encode(tiles),
        build(EncoderOptions(encoder="timm:test_vit", random_weights=True)).encode(tiles),
    )
    config = timm.data.resolve_model_data_config(network)
    mean, std = (torch.tensor(config[k])[:, None, None] for k in ("mean", "std"))
    x = (torch.from_numpy(tiles).permute(0, 3, 1, 2) / 255 - mean) / std
    with torch.inference_mode():
        expected = network.forward_head(network.forward_features(x), pre_logits=True)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    wrong = {k: v for k, v in network.state_dict().items() if "blocks.0" not in k} | {"alien": torch.zeros(1)}
    torch.save(wrong, tmp_path / "wrong.pth")
    with pytest.raises(UserError, match=r"missing.*not in the network \(alien\)"):
        build(EncoderOptions(encoder="timm:test_vit", weights=tmp_path / "wrong.pth"))
    (tmp_path / "junk.pth").write_bytes(b"junk")
    with pytest.raises(UserError, match="not a readable file"):
        build(EncoderOptions(encoder="timm:test_vit", weights=tmp_path / "junk.pth"))


def test_clams_resnet_has_1024_features():
    encoder = build(EncoderOptions(encoder="resnet50_trunc", random_weights=True))
    assert (encoder.dim, encoder.size) == (1024, 224)


def test_wrong_pairings_are_named():
    uni = EncoderOptions(
        encoder="timm:vit_large_patch16_224", random_weights=False, weights=Path(__file__), known_as="uni_v1"
    )
    good = {"patch_size": 256, "target_magnification": 20.0}
    assert pairing_warning(uni, 1024, good) is None
    said = pairing_warning(uni, 384, {"patch_size": 512, "target_magnification": 10.0})
    for words in ("384 instead of 1024", "512 pixels instead of 256", "10× instead of 20×"):
        assert words in said
    assert "no meaning" in pairing_warning(EncoderOptions(encoder="timm:x", random_weights=True), 5, good)
    assert pairing_warning(EncoderOptions(encoder="colour-texture"), DIM, good) is None
