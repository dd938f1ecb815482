"""DaViT's networks: Ding et al., ECCV 2022, and the vision towers of Florence-2. timm has its own under ``davit_*``."""

from vision_models.networks.families import Family, Variant

_CODE = "vision_models.networks.davit"
_NARROW = {"embed_dims": (96, 192, 384, 768), "num_heads": (3, 6, 12, 24)}
_BASE = {"embed_dims": (128, 256, 512, 1024), "num_heads": (4, 8, 16, 32)}
_LARGE = {"embed_dims": (192, 384, 768, 1536), "num_heads": (6, 12, 24, 48)}
_HUGE = {"embed_dims": (256, 512, 1024, 2048), "num_heads": (8, 16, 32, 64)}
_GIANT = {"embed_dims": (384, 768, 1536, 3072), "num_heads": (12, 24, 48, 96)}
_FLORENCE = {"depths": (1, 1, 9, 1), "window_size": 12, "overlapped_patch": True, "scaling": "tokens"}
_BIG = (3, 384, 384)

family = Family(
    slug="davit",
    network=f"{_CODE}.network:DaViT",
    layouts=f"{_CODE}.official:layouts",
    paper="DaViT: Dual Attention Vision Transformers",
    arxiv="2204.03645",
    repository="dingmyu/davit",
    licence="mit",
    first_conv="patch_embeds.0.proj",
    variants={
        "suite_davit_tiny": Variant(options=_NARROW | {"depths": (1, 1, 3, 1)}, parameters=28_360_168, crop_pct=0.9),
        "suite_davit_small": Variant(options=_NARROW | {"depths": (1, 1, 9, 1)}, parameters=49_745_896, crop_pct=0.9),
        "suite_davit_base": Variant(options=_BASE | {"depths": (1, 1, 9, 1)}, parameters=87_954_408, crop_pct=0.9),
        "suite_davit_large": Variant(
            options=_LARGE | {"depths": (1, 1, 9, 1), "window_size": 12},
            parameters=196_811_752,
            input_size=_BIG,
            crop_pct=1.0,
        ),
        "suite_davit_huge": Variant(options=_HUGE | {"depths": (1, 1, 9, 1)}, parameters=348_922_856, crop_pct=0.9),
        "suite_davit_giant": Variant(
            options=_GIANT | {"depths": (1, 1, 12, 3)}, parameters=1_406_470_120, crop_pct=0.9
        ),
        "suite_davit_base_fl": Variant(
            options=_BASE | _FLORENCE, parameters=90_370_048, num_classes=0, input_size=(3, 768, 768), crop_pct=1.0
        ),
        "suite_davit_huge_fl": Variant(
            options=_HUGE | _FLORENCE, parameters=360_636_416, num_classes=0, input_size=(3, 768, 768), crop_pct=1.0
        ),
    },
)
