"""Published weights that this package can use, as data. Imports nothing heavy.

Licences and gating are as on the models' cards when this list was written (2025); the card decides.
"""

from dataclasses import dataclass

from core_runtime.models import Published


@dataclass(frozen=True, kw_only=True)
class PublishedEncoder(Published):
    """One published network that turns tiles into features.

    Attributes:
        feature_width: F, width of its features; 0: it varies.
        tiles: tile side @ magnification that it was trained on.
        encoder: value of ``encode --encoder``; empty where no library that we use has the architecture.
    """

    feature_width: int
    tiles: str
    encoder: str = ""


_NC = "CC-BY-NC-ND-4.0"
_LUNIT = "lunit-io/benchmark-ssl-pathology, release file dino_vit_small_patch"
_FILES = ("model.safetensors", "pytorch_model.bin")
_VIT_GIANT = "img_size=224&init_values=1e-5&dynamic_img_size=true"


def _on_hub(
    name: str,
    licence: str,
    size: str,
    width: int,
    tiles: str,
    source: str,
    *,
    gated: bool = False,
    encoder: str = "",
    files: tuple[str, ...] = _FILES,
) -> PublishedEncoder:
    """An encoder in a repository of the hub."""
    access = ""
    if gated:
        access = "a hub account with access granted (huggingface-cli login); "
    needs = f"{access}network for 'models get {name}', or its file for 'encode --weights'"
    if not encoder:
        needs = f"features made elsewhere (its architecture is in {source}); train and predict take them"
    return PublishedEncoder(
        name=name,
        holds=f"encoder, {width} wide, tiles {tiles}",
        licence=licence,
        size=size,
        source=source,
        files=files,
        gated=gated,
        needs=needs,
        feature_width=width,
        tiles=tiles,
        encoder=encoder,
    )


def _elsewhere(
    name: str, licence: str, size: str, width: int, tiles: str, source: str, *, encoder: str = ""
) -> PublishedEncoder:
    """An encoder whose file must be fetched by hand."""
    needs = f"its file from {source}, for 'encode --encoder {encoder} --weights FILE'"
    if not encoder:
        needs = f"features made elsewhere (its architecture is in {source}); train and predict take them"
    return PublishedEncoder(
        name=name,
        holds=f"encoder, {width} wide, tiles {tiles}",
        licence=licence,
        size=size,
        source=source,
        needs=needs,
        feature_width=width,
        tiles=tiles,
        encoder=encoder,
    )


PUBLISHED: tuple[PublishedEncoder, ...] = (
    PublishedEncoder(
        name="colour-texture",
        holds="built-in baseline, tiles any",
        licence="Apache-2.0",
        size="0",
        source="this package",
        needs="nothing",
        feature_width=0,
        tiles="any",
        encoder="colour-texture",
    ),
    _on_hub("resnet18", "BSD-3-Clause", "45 MB", 512, "256@20", "timm/resnet18.tv_in1k", encoder="timm:resnet18"),
    _on_hub("resnet50", "BSD-3-Clause", "100 MB", 2048, "256@20", "timm/resnet50.tv_in1k", encoder="timm:resnet50"),
    _elsewhere(
        "lunit-vits16",
        "non-commercial research (Lunit)",
        "85 MB",
        384,
        "224@20",
        f"{_LUNIT}16_ep200.torch",
        encoder="timm:vit_small_patch16_224",
    ),
    _elsewhere(
        "lunit-vits8",
        "non-commercial research (Lunit)",
        "85 MB",
        384,
        "224@20",
        f"{_LUNIT}8_ep200.torch",
        encoder="timm:vit_small_patch8_224",
    ),
    _on_hub(
        "uni_v1",
        _NC,
        "1.2 GB",
        1024,
        "256@20",
        "MahmoodLab/UNI",
        gated=True,
        encoder="timm:vit_large_patch16_224?init_values=1e-5&dynamic_img_size=true",
        files=("pytorch_model.bin",),
    ),
    _on_hub("uni_v2", _NC, "2.7 GB", 1536, "256@20", "MahmoodLab/UNI2-h", gated=True),
    _on_hub("conch_v1", _NC, "800 MB", 512, "512@20", "MahmoodLab/CONCH", gated=True),
    _on_hub("conch_v15", _NC, "1.2 GB", 768, "512@20", "MahmoodLab/conchv1_5", gated=True),
    _on_hub("virchow", "Apache-2.0", "2.5 GB", 2560, "224@20", "paige-ai/Virchow", gated=True),
    _on_hub("virchow2", _NC, "2.5 GB", 2560, "224@20", "paige-ai/Virchow2", gated=True),
    _on_hub("phikon", "Owkin non-commercial", "345 MB", 768, "224@20", "owkin/phikon"),
    _on_hub("phikon_v2", "Owkin non-commercial", "1.2 GB", 1024, "224@20", "owkin/phikon-v2"),
    _on_hub(
        "gigapath", "research use only (its card)", "4.5 GB", 1536, "256@20", "prov-gigapath/prov-gigapath", gated=True
    ),
    _on_hub(
        "hoptimus0",
        "Apache-2.0",
        "4.5 GB",
        1536,
        "224@20",
        "bioptimus/H-optimus-0",
        gated=True,
        encoder=f"timm:vit_giant_patch14_reg4_dinov2?{_VIT_GIANT}",
    ),
    _on_hub(
        "hoptimus1",
        _NC,
        "4.5 GB",
        1536,
        "224@20",
        "bioptimus/H-optimus-1",
        gated=True,
        encoder=f"timm:vit_giant_patch14_reg4_dinov2?{_VIT_GIANT}",
    ),
    _on_hub("hibou_l", "Apache-2.0", "1.2 GB", 1024, "224@20", "histai/hibou-L", gated=True),
    _on_hub("musk", _NC, "2.7 GB", 1024, "384@20", "xiangjx/musk", gated=True),
    _elsewhere("ctranspath", "GPL-3.0", "110 MB", 768, "256@10", "Xiyue-Wang/TransPath"),
)

NO_CLASSIFIERS = (
    "No slide classifier is published for ACMIL (its authors released features, not models): train one with "
    "'pathology-mil train FEATURES LABELS', or convert your own official checkpoint with 'pathology-mil models convert FILE --out FOLDER'."
)
