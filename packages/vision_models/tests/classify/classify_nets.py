"""Small networks for the tests."""

import json

from vision_models.classify.model.classifier import Classifier, ClassifierConfig
from vision_models.classify.model.options import NetworkOptions

# mixing, erasing and RandAugment on, so that what they draw is part of what is repeated
QUICK = {"epochs": 2, "batch": 16, "lr": 2e-2, "warmup": 1}
TINY = NetworkOptions(network="resnet10t", settings=("channels=8/8/16/16", "stem_width=8"), size=16)


def sparsifiner(classes=3):
    settings = {"patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2, "reduce_n_factor": 2}
    return Classifier(ClassifierConfig("sparsifiner_s", classes, 3, 16, json.dumps(settings)))


def vit(classes=3):
    settings = {"patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2}
    return Classifier(ClassifierConfig("vit_tiny_patch16_224", classes, 3, 16, json.dumps(settings)))
