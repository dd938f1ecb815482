"""How the suite sees this domain."""

from core_runtime.domains import Check, Domain, check_modules, lazily
from gaze.scanpaths.formats import claim


def doctor() -> list[Check]:
    return check_modules(
        {
            "scipy": "saliency",
            "PIL": "pictures",
            "pymovements": "finding fixations in raw samples",
            "pyarrow": "Parquet files",
            "lightning": "training",
            "matplotlib": "figures",
        }
    )


domain = Domain(
    name="gaze",
    question="Where do people look while they search, and in which order? (a scene's objects and a target → OAT → human scanpaths)",
    recognises=claim,
    glance=lazily("gaze.commands.inspect:glance"),
    demo=lazily("gaze.commands.demo:demo"),
    doctor=doctor,
    app="gaze.cli:app",
    kinds="scanpaths (COCO-Search18, EyeLink .asc, eye-tracking BIDS, Tobii .tsv, fixation tables, Parquet)",
)
