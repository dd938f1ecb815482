"""Tiny vision transformers for the tests."""

import torch
from timm.models.vision_transformer import VisionTransformer


def tiny_vit(size=32, patch=8, width=24, depth=3, heads=3, **options):
    torch.manual_seed(0)
    options = {"num_classes": 0, **options}
    model = VisionTransformer(img_size=size, patch_size=patch, embed_dim=width, depth=depth, num_heads=heads, **options)
    # attention of a fresh model is nearly uniform: larger weights make its rows differ
    for block in model.blocks:
        block.attn.qkv.weight.data.mul_(20)
    return model.eval()
