"""What `attention-suite` knows of this domain; imports nothing heavy."""

from core_runtime.domains import Domain

domain = Domain(
    name="gaze",
    package="gaze",
    question="Where do people look while they search, and in which order? (a scene's objects and a target → OAT → human scanpaths)",
    claim="gaze.scanpaths.formats:claim",
    kinds="scanpaths (COCO-Search18, EyeLink .asc, eye-tracking BIDS, Tobii .tsv, fixation tables, Parquet)",
    needs={
        "scipy": "saliency",
        "PIL": "pictures",
        "pymovements": "finding fixations in raw samples",
        "pyarrow": "Parquet files",
        "lightning": "training",
        "matplotlib": "figures",
    },
)
