"""The command ``vision-models`` and its groups; no logic."""

from core_runtime.cli import application, run

app = application(
    "vision-models",
    "What is in these pictures: `vision-models classify`. Where it is, also in the dark: `vision-models detect`. "
    "What happens in a video, and when: `vision-models actions`. Attention for long video: `vision-models video`.",
)
# by import path: a group is imported only when it is called
app.command("vision_models.classify.cli:app", name="classify")
app.command("vision_models.detect.cli:app", name="detect")
app.command("vision_models.actions.cli:app", name="actions")
app.command("vision_models.video.cli:app", name="video")


def main() -> None:
    run(app)
