"""Published weights of backbones, as data. Imports nothing heavy. Licences are as on the models' cards and repositories, which decide."""

from core_runtime.models import Published

_TRAIN = "vision-models classify train FOLDER --network {network} --weights '{{file}}'"


def _timm(network: str, tag: str, holds: str, size: str) -> Published:
    return Published(
        name=f"{network}.{tag}",
        holds=holds,
        licence="Apache-2.0",
        size=size,
        source=f"timm/{network}.{tag}",
        files=("model.safetensors",),
        use=_TRAIN.format(network=network),
    )


def _by_hand(name: str, holds: str, licence: str, size: str, source: str, network: str) -> Published:
    return Published(
        name=name,
        holds=holds,
        licence=licence,
        size=size,
        source=source,
        needs=f"the file, by hand from {source}; then 'models convert FILE --network {network}'",
        use=f"vision-models classify models convert '{{file}}' --network {network}",
    )


PUBLISHED = (
    _timm("davit_tiny", "msft_in1k", "DaViT-T of ImageNet-1k, 82.7 %", "113 MB"),
    _timm("mambaout_tiny", "in1k", "MambaOut-T of ImageNet-1k, 82.7 %", "106 MB"),
    _timm("mambaout_femto", "in1k", "MambaOut-Femto of ImageNet-1k, 78.9 %", "29 MB"),
    _timm("deit_small_patch16_224", "fb_in1k", "DeiT-S, where Sparsifiner-S starts, 79.8 %", "88 MB"),
    _timm("deit_tiny_patch16_224", "fb_in1k", "DeiT-Ti, the peer of small transformers, 72.2 %", "23 MB"),
    _timm("resnet18", "a1_in1k", "ResNet-18, the peer of small CNNs, 71.5 %", "47 MB"),
    _by_hand(
        "biformer_tiny",
        "BiFormer-T of ImageNet-1k",
        "MIT",
        "53 MB",
        "the authors' OneDrive (github.com/rayleizhu/BiFormer)",
        "biformer_tiny",
    ),
    _by_hand(
        "t2t_vit_t_14",
        "T2T-ViT_t-14, where Scatterbrain's experiment starts",
        "Clear BSD",
        "87 MB",
        "github.com/yitu-opensource/T2T-ViT/releases (81.7_T2T_ViTt_14.pth.tar)",
        "t2t_vit_t_14_scatterbrain",
    ),
    _by_hand(
        "lvvit_s",
        "LV-ViT-S, where Sparsifiner on LV-ViT starts",
        "Apache-2.0",
        "105 MB",
        "github.com/zihangJiang/TokenLabeling/releases (lvvit_s-26M-224-83.3.pth.tar)",
        "sparsifiner_lvvit_s",
    ),
    _by_hand("ravlt_s", "RAVLT-S of ImageNet-1k", "none stated", "105 MB", "huggingface.co/aldjalkdf/RAVLT", "ravlt_s"),
    _by_hand(
        "moh_vit_s80",
        "MoH-ViT-S-80 of ImageNet-1k",
        "Apache-2.0",
        "200 MB",
        "huggingface.co/Chat-UniVi/MoH-ViT-S-80",
        "moh_vit_s80",
    ),
)
ADVICE = (
    "train one with 'vision-models classify train FOLDER --out run', or see 'vision-models classify models' for published weights to start "
    "from. DHVT, ULSAM and Sparsifiner never published weights."
)
