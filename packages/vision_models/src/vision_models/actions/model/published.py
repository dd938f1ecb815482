"""Published weights of action detectors, as data. Imports nothing heavy."""

from core_runtime.models import Published

PUBLISHED = (
    Published(
        name="bmn-activitynet",
        holds="BMN of ActivityNet-1.3 on the 400 TSN scores, AUC 67.7 of proposals; class-agnostic",
        licence="MIT",
        size="20 MB (145 MB with its constant mask)",
        source="github.com/JJBOY/BMN-Boundary-Matching-Network (BMN_best.pth.tar)",
        needs="the file, by hand; then 'models convert FILE'",
        use="vision-models actions models convert '{file}' --out bmn",
    ),
)
ADVICE = (
    "train one with 'vision-models actions train FEATURES --annotations FILE --out run', or see 'vision-models actions models'. "
    "No weights of BMN-CSA were ever published."
)
