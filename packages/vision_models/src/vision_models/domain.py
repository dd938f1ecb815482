"""What `attention-suite` knows of the groups of ``vision-models``; imports nothing heavy."""

from core_runtime.domains import Domain

_INSTALL = "pip install 'attention-suite-vision-models"

classify = Domain(
    name="vision-models classify",
    package="vision_models.classify",
    question="What is in this picture? (labelled images → a backbone trained from scratch, beside any of timm's → class)",
    claim="vision_models.classify.formats:claim",
    kinds="class folders of images, MedMNIST-like .npz, CIFAR, any picture",
    needs={"timm": "networks", "PIL": "pictures", "lightning": "training", "matplotlib": "figures"},
    extras={"onnx": f"ONNX files: {_INSTALL}[onnx]'"},
)
detect = Domain(
    name="vision-models detect",
    package="vision_models.detect",
    question="Where are the things in this dark picture? (pictures with boxes → FeatEnHancer and a detector → boxes)",
    claim="vision_models.detect.scenes.formats:claim",
    kinds="ExDark, DARK FACE and COCO folders and annotations, dark pictures",
    needs={
        "torchvision": "detectors",
        "pycocotools": "average precision",
        "timm": "backbones",
        "lightning": "training",
        "matplotlib": "figures",
    },
    extras={"transformers": f"detectors of transformers: {_INSTALL}[transformers]'"},
)
actions = Domain(
    name="vision-models actions",
    package="vision_models.actions",
    question="What happens in this video, and when? (video → snippet features → BMN with class semantics → segments with labels)",
    claim="vision_models.actions.formats:claim",
    kinds="MP4, MOV, MKV, WebM, AVI and other videos",
    needs={"scipy": "sparse matrices", "lightning": "training", "matplotlib": "figures"},
    extras={"av": f"videos: {_INSTALL}[actions]'", "h5py": f"features in HDF5: {_INSTALL}[actions]'"},
)
video = Domain(
    name="vision-models video",
    package="vision_models.video",
    question="What does attention cost in this video model, and what do blocks keep of it? (a Wan model → VMoBA beside full attention)",
    claim="vision_models.video.formats:claim",
    kinds="folders of Wan-like models",
    needs={"lightning": "training", "matplotlib": "figures"},
    extras={"diffusers": f"Wan models: {_INSTALL}[video]'", "av": f"clips: {_INSTALL}[video]'"},
)
