"""Published weights of backbones, as data. Imports nothing heavy. Licences are as on the models' cards and repositories, which decide."""

from core_runtime.models import Published
from vision_models.networks.catalogue import BY_NAME

_TRAIN = "vision-models classify train FOLDER --network {network} --weights '{{file}}'"


def _size(network: str) -> str:
    """Of the weights of one of our networks, four bytes each; training checkpoints that hold more are larger."""
    return f"{BY_NAME[network].variants[network].parameters * 4 / 1e6:.0f} MB"


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


def _biformer(network: str, holds: str, accuracy: str) -> Published:
    source = f"the authors' OneDrive (github.com/rayleizhu/BiFormer; {network}_in1k.pth)"
    return _by_hand(network, f"{holds} of ImageNet-1k, {accuracy} %", "MIT", _size(network), source, network)


def _ravlt(letter: str) -> Published:
    network = f"ravlt_{letter.lower()}"
    source = f"huggingface.co/aldjalkdf/RAVLT (RAVLT_{letter}.pth)"
    licence = "none of the code; MIT on the weights' page"
    return _by_hand(network, f"RAVLT-{letter} of ImageNet-1k", licence, f"at least {_size(network)}", source, network)


def _moh(network: str, title: str, accuracy: str) -> Published:
    source = f"huggingface.co/Chat-UniVi/{title}"
    return _by_hand(network, f"{title} of ImageNet-1k, {accuracy} %", "Apache-2.0", _size(network), source, network)


PUBLISHED = (
    _timm("davit_tiny", "msft_in1k", "DaViT-T of ImageNet-1k, 82.8 %", _size("suite_davit_tiny")),
    _timm("davit_small", "msft_in1k", "DaViT-S of ImageNet-1k, 84.2 %", _size("suite_davit_small")),
    _timm("davit_base", "msft_in1k", "DaViT-B of ImageNet-1k, 84.6 %", _size("suite_davit_base")),
    _timm("mambaout_femto", "in1k", "MambaOut-Femto of ImageNet-1k, 78.9 %", _size("suite_mambaout_femto")),
    _timm("mambaout_kobe", "in1k", "MambaOut-Kobe of ImageNet-1k, 80.0 %", _size("suite_mambaout_kobe")),
    _timm("mambaout_tiny", "in1k", "MambaOut-T of ImageNet-1k, 82.7 %", _size("suite_mambaout_tiny")),
    _timm("mambaout_small", "in1k", "MambaOut-S of ImageNet-1k, 84.1 %", _size("suite_mambaout_small")),
    _timm("mambaout_base", "in1k", "MambaOut-B of ImageNet-1k, 84.2 %", _size("suite_mambaout_base")),
    _timm("deit_small_patch16_224", "fb_in1k", "DeiT-S, where Sparsifiner-S starts, 79.8 %", "88 MB"),
    _timm("deit_tiny_patch16_224", "fb_in1k", "DeiT-Ti, the peer of small transformers, 72.2 %", "23 MB"),
    _timm("resnet18", "a1_in1k", "ResNet-18, the peer of small CNNs, 71.5 %", "47 MB"),
    _biformer("biformer_tiny", "BiFormer-T", "81.4"),
    _biformer("biformer_small", "BiFormer-S", "83.8"),
    _biformer("biformer_base", "BiFormer-B", "84.3"),
    _biformer("biformer_stl", "BiFormer-STL", "82.7"),
    _by_hand(
        "t2t_vit_t_14",
        "T2T-ViT_t-14, where Scatterbrain's experiment starts, 81.7 %",
        "Clear BSD",
        f"at least {_size('t2t_vit_t_14')}",
        "github.com/yitu-opensource/T2T-ViT/releases (81.7_T2T_ViTt_14.pth.tar)",
        "t2t_vit_t_14_scatterbrain",
    ),
    _by_hand(
        "lvvit_s",
        "LV-ViT-S, where Sparsifiner on LV-ViT starts, 83.3 %",
        "Apache-2.0",
        "105 MB",
        "github.com/zihangJiang/TokenLabeling/releases (lvvit_s-26M-224-83.3.pth.tar)",
        "sparsifiner_lvvit_s",
    ),
    *[_ravlt(letter) for letter in "TSBL"],
    _moh("moh_vit_s75", "MoH-ViT-S-75", "84.6"),
    _moh("moh_vit_s80", "MoH-ViT-S-80", "84.7"),
    _moh("moh_vit_b50", "MoH-ViT-B-50", "84.7"),
    _moh("moh_vit_b75", "MoH-ViT-B-75", "84.9"),
)
ADVICE = (
    "train one with 'vision-models classify train FOLDER --out run', or see 'vision-models classify models' for published weights to start "
    "from. DHVT, ULSAM and Sparsifiner never published weights."
)
