"""The encoder that computes features, and its weights; and the tiles that known encoders were trained on. Imports nothing heavy."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from core_runtime.errors import UserError
from core_runtime.options import options

COMPUTED = "colour-texture"  # the built-in baseline
StoredType = Literal["float16", "float32"]

# What known encoders were trained on: patch size in pixels, magnification, width(s) of the features. Other tiles give features without meaning.
PAIRINGS: Mapping[str, tuple[int, float, tuple[int, ...]]] = {
    "uni_v1": (256, 20, (1024,)),
    "uni_v2": (256, 20, (1536,)),
    "conch_v1": (512, 20, (512,)),
    "conch_v15": (512, 20, (768,)),
    "virchow": (224, 20, (2560,)),
    "virchow2": (224, 20, (2560,)),
    "phikon": (224, 20, (768,)),
    "phikon_v2": (224, 20, (1024,)),
    "gigapath": (256, 20, (1536,)),
    "hoptimus0": (224, 20, (1536,)),
    "hoptimus1": (224, 20, (1536,)),
    "ctranspath": (256, 10, (768,)),
    "kaiko": (256, 20, (384, 768, 1024)),
    "lunit-vits8": (224, 20, (384,)),
    "resnet50": (256, 20, (1024, 2048)),
    "musk": (384, 20, (1024,)),
    "hibou_l": (224, 20, (1024,)),
}


@options
class EncoderOptions:
    """An encoder and its weights. Nothing is downloaded, and nothing in a file of weights is executed.

    Attributes:
        encoder: colour-texture (built in, a baseline), timm:NAME, torchvision:NAME, or resnet50_trunc (CLAM's, cut after its third
            stage); arguments of a constructor as timm:NAME?init_values=1e-5.
        weights: local file of weights (safetensors or a torch state dict), with or without a classifier.
        random_weights: seeded random weights where there is no file: features without meaning, to test a pipeline.
        known_as: record the features under the name of this known encoder (uni_v1, phikon …) and check the pairing.
    """

    encoder: str | None = None
    weights: Path | None = None
    random_weights: bool = False
    known_as: str | None = None

    def __post_init__(self) -> None:
        if self.weights is not None and not self.weights.is_file():
            raise UserError(f"{self.weights}: no such file of weights")
        if self.known_as is not None and self.known_as not in PAIRINGS:
            raise UserError(f"--known-as {self.known_as}: no such known encoder", f"known: {', '.join(PAIRINGS)}")
        if self.encoder is None:
            return
        if self.encoder != COMPUTED and ":" not in self.encoder and self.encoder != "resnet50_trunc":
            raise UserError(
                f"unknown encoder {self.encoder!r}",
                "use colour-texture (built in, no weights), timm:NAME, torchvision:NAME or resnet50_trunc",
            )
        if self.encoder == COMPUTED:
            if self.weights or self.random_weights:
                raise UserError("the colour-texture encoder is computed: it has no weights to load")
        elif self.weights is None and not self.random_weights:
            raise UserError(
                f"{self.encoder} needs weights: nothing is downloaded",
                "give a local file with --weights FILE; --random-weights makes features without meaning, to test a pipeline",
            )

    @property
    def name(self) -> str:
        """The encoder's name.

        Raises:
            UserError: no encoder was given.
        """
        if self.encoder is None:
            raise UserError(
                "no --encoder was given", "colour-texture needs no weights; 'pathology-mil models' lists the others"
            )
        return self.encoder

    @property
    def computed(self) -> bool:
        """Whether it is the built-in baseline, which has no weights."""
        return self.encoder == COMPUTED

    @property
    def label(self) -> str:
        """The name under which the features are stored; also that of their folder."""
        if self.known_as is not None:
            return self.known_as
        architecture = self.name.replace("timm:", "").replace("torchvision:", "").partition("?")[0]
        return architecture.replace("/", "_")

    def plain(self) -> dict[str, Any]:
        """What the features depend on; the weights by the digest of their file."""
        from core_runtime.identity import identity

        weights: str | None = None
        if self.weights is not None:
            weights = identity(self.weights, full=True)["sha256"][:16]
        elif self.random_weights:
            weights = "random"
        return {"encoder": self.name, "known_as": self.known_as, "weights": weights}
