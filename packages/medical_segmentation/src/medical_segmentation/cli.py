"""The command ``medical-segmentation`` and its groups; no logic."""

from core_runtime.cli import application, run

app = application(
    "medical-segmentation",
    "Volumes to masks: `medical-segmentation organs`. Similar images, and where the model looks: `medical-segmentation similar`.",
)
# by import path: a group is imported only when it is called
app.command("medical_segmentation.organs.cli:app", name="organs")
app.command("medical_segmentation.similar.cli:app", name="similar")


def main() -> None:
    run(app)
