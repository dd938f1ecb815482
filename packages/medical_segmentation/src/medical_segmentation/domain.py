"""The groups of ``medical-segmentation`` as the suite sees them. Imports nothing heavy."""

from core_runtime.domains import Check, Domain, check_modules, lazily


def _check_organs() -> list[Check]:
    modules = {
        "nibabel": "NIfTI",
        "pydicom": "DICOM",
        "highdicom": "DICOM segmentations",
        "SimpleITK": "MetaImage",
        "nrrd": "NRRD",
        "timm": "backbones",
        "monai": "transforms, losses, peers",
        "lightning": "training",
    }
    return check_modules(modules, {"gdcm": "compressed DICOM: medical-segmentation[compressed]"})


def _check_similar() -> list[Check]:
    return check_modules(
        {"timm": "backbones", "sklearn": "clusters", "lightning": "training", "matplotlib": "pictures"}
    )


organs = Domain(
    name="medical-segmentation organs",
    question="Which organ is where? (CT or MR volumes, NIfTI or DICOM → guided attention → masks in the same geometry)",
    recognises=lazily("medical_segmentation.volumes.formats:claim"),
    glance=lazily("medical_segmentation.organs.commands.inspect:glance"),
    demo=lazily("medical_segmentation.organs.commands.demo:demo"),
    doctor=_check_organs,
    app="medical_segmentation.cli:app",
    kinds="volumes (NIfTI, DICOM series, MHA, NRRD), nnU-Net and Decathlon folders",
)
similar = Domain(
    name="medical-segmentation similar",
    question="Which case looks like this one, and where does the model look? (images → subspace learners → neighbours)",
    recognises=lazily("medical_segmentation.similar.images:claim"),
    glance=lazily("medical_segmentation.similar.commands.inspect:glance"),
    demo=lazily("medical_segmentation.similar.commands.demo:demo"),
    doctor=_check_similar,
    app="medical_segmentation.cli:app",
    kinds="labelled images (folders of classes, CSV, MedMNIST npz)",
)
