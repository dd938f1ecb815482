"""The groups of ``vision-models`` as the suite sees them. Imports nothing heavy."""

from core_runtime.domains import Check, Domain, check_modules, lazily

_EXTRAS = {"transformers": "detectors of transformers: pip install 'attention-suite-vision-models[transformers]'"}


def _check_classify() -> list[Check]:
    modules = {"timm": "networks", "PIL": "pictures", "lightning": "training", "matplotlib": "figures"}
    return check_modules(modules, {"onnx": "ONNX files: pip install 'attention-suite-vision-models[onnx]'"})


def _check_detect() -> list[Check]:
    modules = {"torchvision": "detectors", "pycocotools": "average precision", "timm": "backbones"}
    return check_modules(modules | {"lightning": "training", "matplotlib": "figures"}, _EXTRAS)


classify = Domain(
    name="vision-models classify",
    question="What is in this picture? (labelled images → a backbone trained from scratch, beside any of timm's → class)",
    recognises=lazily("vision_models.classify.formats:claim"),
    glance=lazily("vision_models.classify.commands.inspect:glance"),
    demo=lazily("vision_models.classify.commands.demo:demo"),
    doctor=_check_classify,
    app="vision_models.cli:app",
    kinds="class folders of images, MedMNIST-like .npz, CIFAR, any picture",
)
detect = Domain(
    name="vision-models detect",
    question="Where are the things in this dark picture? (pictures with boxes → FeatEnHancer and a detector → boxes)",
    recognises=lazily("vision_models.detect.scenes.formats:claim"),
    glance=lazily("vision_models.detect.commands.inspect:glance"),
    demo=lazily("vision_models.detect.commands.demo:demo"),
    doctor=_check_detect,
    app="vision_models.cli:app",
    kinds="ExDark, DARK FACE and COCO folders and annotations, dark pictures",
)
