"""One vocabulary: `num_heads`, `dim`, `device=` and `dtype=` are spelled once over all public layers, and put tensors where they say."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

import core_attention
from core_attention.mechanisms.biformer.attention import BiLevelRoutingAttention
from core_attention.mechanisms.titans.memory import NeuralMemory

ROOMS = ("mechanisms", "parts", "pooling", "published", "measuring")
# other words for a number of heads and the width of tokens, as papers and libraries have them
OTHER_WORDS = {
    *("heads", "n_heads", "n_head", "nhead", "num_attention_heads", "attention_heads"),
    *("kv_heads", "n_head_kv", "num_key_value_heads", "head_width", "dim_head", "d_head", "head_size"),
    *("width", "embed_dim", "embedding_dim", "hidden_size", "d_model", "n_embd", "emb_size", "model_dim"),
}
# not among them: `channels` of feature maps (batch, channels, height, width), as torch's own layers of maps say it
HOLDS_NOTHING = {
    "MoBA": "has neither parameters nor buffers",
    "MixtureOfBlocks": "has neither parameters nor buffers",
    "OnMap": "holds a module that it is given, wherever that stands",
}


def public_layers() -> Iterator[type[nn.Module]]:
    for room in ROOMS:
        package = importlib.import_module(f"core_attention.{room}")
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            module = importlib.import_module(found.name)
            for name, value in vars(module).items():
                is_layer = isinstance(value, type) and issubclass(value, nn.Module)
                if is_layer and value.__module__ == module.__name__ and not name.startswith("_"):
                    yield value


LAYERS = {layer.__name__: layer for layer in public_layers()}
HEADS = {"num_heads": 2}
ROUTED = {"shared": 1, "routed": 1}
TITANS = {"window": 4, "num_persistent": 2}
# the least that each constructor asks for
ARGUMENTS: dict[str, Callable[[], tuple[tuple[Any, ...], dict[str, Any]]]] = {
    "AttentionLayer": lambda: ((8,), {}),
    "AttentionLePE": lambda: ((8,), HEADS),
    "BalancedMultiTaskAttention": lambda: ((16,), {}),
    "BiFormerBlock": lambda: ((8,), HEADS),
    "BiLevelRoutingAttention": lambda: ((8,), HEADS),
    "CAM": lambda: ((8,), {}),
    "CBAM": lambda: ((16,), {}),
    "CSABlock": lambda: ((8, 8), {"hidden": 8, "reduction": 2}),
    "ChannelAttention": lambda: ((8,), HEADS),
    "ChannelBlock": lambda: ((8,), HEADS),
    "ChannelGate": lambda: ((16,), {}),
    "ConvPosEnc": lambda: ((8,), {}),
    "CoordinateAttention": lambda: ((16,), {}),
    "DAFF": lambda: ((8,), {}),
    "DeconstructedAttention": lambda: ((8,), HEADS),
    "DynamicMask": lambda: ((2, 4, 8, "exp"), {}),
    "DynamicMaskAttention": lambda: ((8,), HEADS),
    "ELA": lambda: ((32,), {}),
    "EfficientChannelAttention": lambda: ((8,), {}),
    "GateLinearAttentionNoSilu": lambda: ((8,), HEADS),
    "Gate": lambda: ((8,), {}),
    "HeadInteractedAttention": lambda: ((8,), HEADS),
    "HeadProjections": lambda: ((8,), HEADS),
    "HeadRMSNorm": lambda: ((2, 4), {}),
    "HeadRouter": lambda: ((8,), HEADS | ROUTED),
    "LandmarkAttention": lambda: ((8,), HEADS),
    "LoRALinear": lambda: ((8, 8), {"rank": 2}),
    "MVPFormerGQAAttention": lambda: ((8,), {"num_heads": 2, "num_kv_heads": 1, "lora_rank": 2}),
    "MaskPredictor": lambda: ((8,), HEADS),
    "MemoryAsContext": lambda: ((8,), TITANS | HEADS | {"memory": NeuralMemory(8, chunk_size=4)}),
    "MemoryAsGate": lambda: ((8,), TITANS | HEADS | {"memory": NeuralMemory(8, chunk_size=4)}),
    "MemoryAsLayer": lambda: ((8,), TITANS | HEADS | {"memory": NeuralMemory(8, chunk_size=4)}),
    "Mlp": lambda: ((8, 16), {}),
    "MixtureOfBlocks": lambda: (((2, 2, 2),), {}),
    "MoBA": lambda: ((), {}),
    "MoHAggregatedAttention": lambda: ((8,), HEADS | ROUTED | {"grid": (4, 4)}),
    "MoHAttention": lambda: ((8,), HEADS | ROUTED),
    "MoHCosineAttention": lambda: ((8,), HEADS | ROUTED | {"grid": (4, 4)}),
    "MoHLlamaAttention": lambda: ((8,), HEADS | {"router": "learned", "routed": 1}),
    "MoHLlamaLayer": lambda: ((8,), HEADS | {"inner": 16, "routed": 1}),
    "NeuralMemory": lambda: ((8,), {"conv_kernel": 3}),
    "OnMap": lambda: ((BiLevelRoutingAttention(8, num_heads=2),), {}),
    "PAM": lambda: ((8,), {}),
    "PAMCAMLayer": lambda: ((8,), {}),
    "PromptPool": lambda: ((2, 3, 8), {}),
    "PublicNeuralMemory": lambda: ((8,), {}),
    "RoutedPatches": lambda: ((8,), {"grid": (4, 4), "n_win": 2, "topk": 1}),
    "SBBlockAttention": lambda: ((8,), {"block": 4}),
    "SBLocalAttention": lambda: ((8,), {"window": 4}),
    "SBPerformerFeatures": lambda: ((8,), {}),
    "SBSmyrfAttention": lambda: ((8,), {}),
    "ScaleAwareFeatureAggregation": lambda: ((8,), HEADS),
    "ScatterbrainAttention": lambda: ((8,), {}),
    "SegmentedAttention": lambda: ((8,), HEADS | {"segment_len": 4, "head_dim": 4, "num_persist_mem_tokens": 1}),
    "SentenceAttention": lambda: ((8, 8), {}),
    "ShortConv": lambda: ((8, 3), {}),
    "SoftmaxAttention": lambda: ((8,), HEADS),
    "SparseCore": lambda: ((8,), HEADS),
    "SparsifinerAttention": lambda: ((8,), HEADS),
    "SpatialBlock": lambda: ((8,), HEADS),
    "SpatialGate": lambda: ((), {}),
    "SqueezeExcitation": lambda: ((16,), {}),
    "SwiGLU": lambda: ((8, 16), {}),
    "TokenCoordinatedPrompts": lambda: ((2, 8), {"cls_k": 2, "image_k": 2}),
    "ULSAM": lambda: ((8,), {}),
    "VanillaSelfAttention": lambda: ((8,), HEADS),
    "WindowAttention": lambda: ((8,), HEADS),
}
ASKS_FOR_A_LAYER = {"MixtureOfHeads": "is made by convert_model from the layer that it is put into"}


def parameters(layer: type[nn.Module]) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(layer.__init__).parameters)


def tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


@pytest.mark.parametrize("name", LAYERS)
def test_heads_and_width_are_spelled_once(name):
    other = OTHER_WORDS & parameters(LAYERS[name]).keys()
    assert not other, f"{name} says {sorted(other)}: num_heads, num_kv_heads, head_dim, dim"


@pytest.mark.parametrize("name", sorted(LAYERS.keys() - HOLDS_NOTHING.keys()))
def test_device_and_dtype_are_named_arguments(name):
    given = parameters(LAYERS[name])
    for word in ("device", "dtype"):
        assert word in given, f"{name} has no {word}="
        assert given[word].kind is inspect.Parameter.KEYWORD_ONLY
        assert given[word].default is None


@pytest.mark.parametrize("name", sorted(LAYERS.keys() - ASKS_FOR_A_LAYER.keys()))
def test_tensors_stand_where_the_constructor_says(name):
    layer, make = LAYERS[name], ARGUMENTS[name]
    args, options = make()
    plain = layer(*args, **options)
    if name in HOLDS_NOTHING:
        own = [*plain.parameters(recurse=False), *plain.buffers(recurse=False)]
        assert not own, f"{name} {HOLDS_NOTHING[name]}"
        return
    shapes = {key: tensor.shape for key, tensor in tensors(plain).items()}
    args, options = make()
    described = tensors(layer(*args, **options, device="meta"))
    assert {key: tensor.shape for key, tensor in described.items()} == shapes
    assert {tensor.device.type for tensor in described.values()} == {"meta"}
    for dtype in (torch.float64, torch.bfloat16):
        args, options = make()
        built = layer(*args, **options, device="cpu", dtype=dtype)
        assert {tensor.dtype for tensor in tensors(built).values() if tensor.is_floating_point()} == {dtype}
        assert {key: tensor.shape for key, tensor in tensors(built).items()} == shapes


def test_what_is_written_down_is_still_there():
    assert LAYERS.keys() == ARGUMENTS.keys() | ASKS_FOR_A_LAYER.keys()
    assert core_attention.__name__ == "core_attention"
    with torch.device("meta"):
        assert BiLevelRoutingAttention(8, num_heads=2, device="cpu").wo.weight.device.type == "cpu"
