"""What `attention-suite` knows of this domain; imports nothing heavy."""

from core_runtime.domains import Check, Domain

domain = Domain(
    name="pathology-mil",
    package="pathology_mil",
    question="What is on this slide, and where? (whole slide → tiles → features → ACMIL → label and heat map)",
    claim="pathology_mil.slides.formats:claim",
    kinds="whole slides (.svs, .ndpi, .mrxs, .scn, .vms, .bif, tiled .tif, .dcm), feature files (.h5)",
    needs={
        "openslide": "slides (pip install openslide-bin openslide-python)",
        "cv2": "tissue",
        "h5py": "tiles and features",
        "timm": "encoders",
        "lightning": "training",
        "matplotlib": "pictures",
    },
    notes=[
        Check(
            "encoder weights",
            True,
            "none are shipped: colour-texture needs none, timm: and torchvision: take --weights FILE",
        )
    ],
)
