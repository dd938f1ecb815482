"""Published weights that this package can use, as data. Imports nothing heavy.

Licences and gating are what the models' cards said when this list was written (2025); the card decides.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """One published network.

    Attributes:
        name: how it is asked for.
        kind: "encoder" (tile → feature vector) or "classifier" (bag → slide label).
        licence: of the weights.
        size: of the download.
        gated: whether an account must ask for access first.
        width: F, of its features.
        tiles: tile side @ magnification that it was trained on.
        source: hub repository, or where else it is.
        files: candidates for the file of weights in that repository.
        encoder: value of ``encode --encoder``; empty where the architecture is in no library that we use.
    """

    name: str
    licence: str
    size: str
    gated: bool
    width: int
    tiles: str
    source: str
    encoder: str = ""
    files: tuple[str, ...] = ("model.safetensors", "pytorch_model.bin")
    kind: str = "encoder"

    @property
    def needs(self) -> str:
        """What a person must have or do."""
        if self.kind == "built in":
            return "nothing"
        if not self.encoder:
            return f"features made elsewhere (its architecture is in {self.source}); train and predict take them"
        if self.source.startswith("github:"):
            return f"its file from {self.source.removeprefix('github:')}, for 'encode --encoder {self.encoder} --weights FILE'"
        access = "a hub account with access granted (huggingface-cli login); " if self.gated else ""
        return f"{access}network for 'models get {self.name}', or its file for 'encode --weights'"


_NC = "CC-BY-NC-ND-4.0"
_VIT_GIANT = "img_size=224&init_values=1e-5&dynamic_img_size=true"
PUBLISHED: tuple[Published, ...] = (
    Published("colour-texture", "Apache-2.0", "0", False, 0, "any", "this package", "colour-texture", kind="built in"),
    Published("resnet18", "BSD-3-Clause", "45 MB", False, 512, "256@20", "timm/resnet18.tv_in1k", "timm:resnet18"),
    Published("resnet50", "BSD-3-Clause", "100 MB", False, 2048, "256@20", "timm/resnet50.tv_in1k", "timm:resnet50"),
    Published(
        "lunit-vits16",
        "non-commercial research (Lunit)",
        "85 MB",
        False,
        384,
        "224@20",
        "github:lunit-io/benchmark-ssl-pathology, release file dino_vit_small_patch16_ep200.torch",
        "timm:vit_small_patch16_224",
    ),
    Published(
        "lunit-vits8",
        "non-commercial research (Lunit)",
        "85 MB",
        False,
        384,
        "224@20",
        "github:lunit-io/benchmark-ssl-pathology, release file dino_vit_small_patch8_ep200.torch",
        "timm:vit_small_patch8_224",
    ),
    Published(
        "uni_v1",
        _NC,
        "1.2 GB",
        True,
        1024,
        "256@20",
        "MahmoodLab/UNI",
        "timm:vit_large_patch16_224?init_values=1e-5&dynamic_img_size=true",
        ("pytorch_model.bin",),
    ),
    Published("uni_v2", _NC, "2.7 GB", True, 1536, "256@20", "MahmoodLab/UNI2-h"),
    Published("conch_v1", _NC, "800 MB", True, 512, "512@20", "MahmoodLab/CONCH"),
    Published("conch_v15", _NC, "1.2 GB", True, 768, "512@20", "MahmoodLab/conchv1_5"),
    Published("virchow", "Apache-2.0", "2.5 GB", True, 2560, "224@20", "paige-ai/Virchow"),
    Published("virchow2", _NC, "2.5 GB", True, 2560, "224@20", "paige-ai/Virchow2"),
    Published("phikon", "Owkin non-commercial", "345 MB", False, 768, "224@20", "owkin/phikon"),
    Published("phikon_v2", "Owkin non-commercial", "1.2 GB", False, 1024, "224@20", "owkin/phikon-v2"),
    Published(
        "gigapath", "research use only (its card)", "4.5 GB", True, 1536, "256@20", "prov-gigapath/prov-gigapath"
    ),
    Published(
        "hoptimus0",
        "Apache-2.0",
        "4.5 GB",
        True,
        1536,
        "224@20",
        "bioptimus/H-optimus-0",
        f"timm:vit_giant_patch14_reg4_dinov2?{_VIT_GIANT}",
    ),
    Published(
        "hoptimus1",
        _NC,
        "4.5 GB",
        True,
        1536,
        "224@20",
        "bioptimus/H-optimus-1",
        f"timm:vit_giant_patch14_reg4_dinov2?{_VIT_GIANT}",
    ),
    Published("hibou_l", "Apache-2.0", "1.2 GB", True, 1024, "224@20", "histai/hibou-L"),
    Published("musk", _NC, "2.7 GB", True, 1024, "384@20", "xiangjx/musk"),
    Published("ctranspath", "GPL-3.0", "110 MB", False, 768, "256@10", "github:Xiyue-Wang/TransPath"),
)

NO_CLASSIFIERS = (
    "No slide classifier is published for ACMIL (its authors released features, not models): train one with "
    "'pathology-mil train FEATURES LABELS', or convert your own official checkpoint with 'pathology-mil models convert FILE --out FOLDER'."
)


def published(name: str) -> Published | None:
    """By name."""
    return next((p for p in PUBLISHED if p.name == name), None)
