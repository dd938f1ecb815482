"""What `attention-suite` knows of the groups of ``medical-segmentation``; imports nothing heavy."""

from core_runtime.domains import Domain

organs = Domain(
    name="medical-segmentation organs",
    package="medical_segmentation.organs",
    question="Which organ is where? (CT or MR volumes, NIfTI or DICOM → guided attention → masks in the same geometry)",
    claim="medical_segmentation.volumes.formats:claim",
    kinds="volumes (NIfTI, DICOM series, MHA, NRRD), nnU-Net and Decathlon folders",
    needs={
        "nibabel": "NIfTI",
        "pydicom": "DICOM",
        "highdicom": "DICOM segmentations",
        "SimpleITK": "MetaImage",
        "nrrd": "NRRD",
        "timm": "backbones",
        "monai": "transforms, losses, peers",
        "lightning": "training",
    },
    extras={"gdcm": "compressed DICOM: medical-segmentation[compressed]"},
)
similar = Domain(
    name="medical-segmentation similar",
    package="medical_segmentation.similar",
    question="Which case looks like this one, and where does the model look? (images → subspace learners → neighbours)",
    claim="medical_segmentation.similar.images:claim",
    kinds="labelled images (folders of classes, CSV, MedMNIST npz)",
    needs={"timm": "backbones", "sklearn": "clusters", "lightning": "training", "matplotlib": "pictures"},
)
