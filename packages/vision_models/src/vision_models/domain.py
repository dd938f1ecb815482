"""The groups of ``vision-models`` as the suite sees them. Imports nothing heavy."""

from core_runtime.domains import Check, Domain, check_modules, lazily

_ACTIONS = "pip install 'attention-suite-vision-models[actions]'"
_EXTRAS = {"transformers": "detectors of transformers: pip install 'attention-suite-vision-models[transformers]'"}


def _check_classify() -> list[Check]:
    modules = {"timm": "networks", "PIL": "pictures", "lightning": "training", "matplotlib": "figures"}
    return check_modules(modules, {"onnx": "ONNX files: pip install 'attention-suite-vision-models[onnx]'"})


def _check_detect() -> list[Check]:
    modules = {"torchvision": "detectors", "pycocotools": "average precision", "timm": "backbones"}
    return check_modules(modules | {"lightning": "training", "matplotlib": "figures"}, _EXTRAS)


def _check_actions() -> list[Check]:
    modules = {"scipy": "sparse matrices", "lightning": "training", "matplotlib": "figures"}
    extras = {"av": f"videos: {_ACTIONS}", "h5py": f"features in HDF5: {_ACTIONS}"}
    return check_modules(modules, extras)


def _check_video() -> list[Check]:
    modules = {"lightning": "training", "matplotlib": "figures"}
    advice = "pip install 'attention-suite-vision-models[video]'"
    return check_modules(modules, {"diffusers": f"Wan models: {advice}", "av": f"clips: {advice}"})


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
actions = Domain(
    name="vision-models actions",
    question="What happens in this video, and when? (video → snippet features → BMN with class semantics → segments with labels)",
    recognises=lazily("vision_models.actions.formats:claim"),
    glance=lazily("vision_models.actions.commands.inspect:glance"),
    demo=lazily("vision_models.actions.commands.demo:demo"),
    doctor=_check_actions,
    app="vision_models.cli:app",
    kinds="MP4, MOV, MKV, WebM, AVI and other videos",
)
video = Domain(
    name="vision-models video",
    question="What does attention cost in this video model, and what do blocks keep of it? (a Wan model → VMoBA beside full attention)",
    recognises=lazily("vision_models.video.formats:claim"),
    glance=lazily("vision_models.video.commands.inspect:glance"),
    demo=lazily("vision_models.video.commands.demo:demo"),
    doctor=_check_video,
    app="vision_models.cli:app",
    kinds="folders of Wan-like models",
)
