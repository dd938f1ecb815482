"""``vision-models actions demo``."""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core_runtime.domains import DemoResult
from core_runtime.errors import UserError
from core_runtime.options import Full, Overwrite, RunOptions, Seed
from vision_models.actions.samples import SampleOptions
from vision_models.actions.training.recipe import NetworkOptions, Recipe


@dataclass(frozen=True)
class Plan:
    """How much is drawn and learned."""

    videos: int
    epochs: int


QUICK, FULL = Plan(videos=18, epochs=20), Plan(videos=60, epochs=40)
NETWORK = NetworkOptions(
    steps=64, longest=28, layout="duration_start", hidden=64, pem_channels=32, map_3d=64, map_2d=24, bins=12
)


def demo(out: Path, /, *, full: Full = False, seed: Seed = 0, overwrite: Overwrite = False) -> DemoResult:
    """Draws videos with planted actions, trains BMN-CSA on their motion, finds the actions of unseen videos, writes report.html.

    Example: vision-models actions demo /tmp/actions

    Args:
        out: folder for everything that is made.
    """
    from vision_models.actions.commands.evaluate import evaluate
    from vision_models.actions.commands.extract import extract
    from vision_models.actions.commands.predict import predict
    from vision_models.actions.commands.train import train
    from vision_models.actions.samples import make_samples

    if (out / "report.html").exists() and not overwrite:
        raise UserError(f"{out} already holds a demo", "--overwrite replaces it, another folder keeps both")
    for part in ("data", "features", "run", "evaluation", "predictions"):
        shutil.rmtree(out / part, ignore_errors=True)
    plan, began = FULL if full else QUICK, time.monotonic()
    data = make_samples(out / "data", SampleOptions(videos=plan.videos, seconds=20), seed=seed)
    extract(data["videos"], out=out / "features", device="cpu")
    recipe = Recipe(epochs=plan.epochs, batch=4, lr=2e-3, drop=plan.epochs * 3 // 4)
    run = RunOptions(out=out / "run", seed=seed, device="cpu")
    train(out / "features", annotations=data["json"], network=NETWORK, recipe=recipe, run=run)
    model = str(out / "run" / "model")
    judged = evaluate(out / "features", annotations=data["json"], model=model, out=out / "evaluation", device="cpu")
    video = sorted(data["videos"].glob("*.mp4"))[-1]
    predictions = predict(video, model=model, out=out / "predictions", device="cpu")
    return _report(out, data["json"], video, judged, predictions, time.monotonic() - began)


def _report(out: Path, annotations: Path, video: Path, judged: Any, found: Any, seconds: float) -> DemoResult:
    from core_runtime.report import Report
    from core_runtime.videos import open_video
    from vision_models.actions.annotations import read_annotations
    from vision_models.actions.baseline import detect_motion
    from vision_models.actions.cohort import gather
    from vision_models.actions.features import find_features
    from vision_models.actions.judging import judge
    from vision_models.actions.reports.files import read_detections
    from vision_models.actions.reports.timeline import draw_timeline, save, thumbnails

    truth = read_annotations(annotations)
    tested = list(read_detections(out / "evaluation" / "results.json"))
    cohort = gather(find_features(out / "features"), truth)
    clips = [cohort.clips[name] for name in tested]
    moving = {clip.name: detect_motion(clip.name, clip.read()) for clip in clips}
    baseline = judge(moving, clips, (0.3, 0.4, 0.5, 0.6, 0.7), labelled=False)
    ours = judged.measures
    rows = []
    for name in ("mAP without labels", "AR@10", "AUC"):
        pairs = []
        for measures in (ours, baseline):
            ends = measures.intervals[name]
            pairs.append((measures.values[name], f"{ends.low:.2f} to {ends.high:.2f}"))
        rows.append((name, pairs[0][0], pairs[0][1], pairs[1][0], pairs[1][1]))
    columns = ("measure", "BMN-CSA", "95 % over videos", "motion energy", "95 % over videos ")
    name = video.stem
    clip = cohort.clips[name]
    segments = found.videos[name]
    by_motion = [segment for segment in moving[name].shown() if segment.score >= 0.5]
    figure = draw_timeline(
        thumbnails(open_video(video), clip.seconds),
        clip.seconds,
        segments,
        cohort.labels,
        truth=clip.actions,
        others=(("motion energy", by_motion),),
        title=f"{name}: unseen",
    )
    picture = (save(figure, out / "timeline.png"), "Annotated, found by label, and what motion alone suggests.")
    mine, motion = ours.values["mAP without labels"], baseline.values["mAP without labels"]
    headline = (
        f"In {ours.videos} unseen videos BMN-CSA finds the {ours.actions} actions with a mean average precision of {mine:.2f} "
        f"({ours.values['mAP']:.2f} with the right label); motion energy alone reaches {motion:.2f}."
    )
    page = Report("What happens in a video, and when", lead=headline).picture(*picture)
    page.text(
        "The videos were drawn: a bar that bounces, flashes, grows or spins at planted times, and squares that pass by, which are no "
        "action. Features are statistics of brightness and change; nothing was downloaded. The figures say nothing about films of people. "
        "The same commands take your videos and any network of timm, torchvision or transformers."
    )
    page.table(columns, rows, caption="On the same unseen videos; mean over tIoU 0.3 to 0.7.")
    page.picture(judged.files["picture"], "The whole evaluation.")
    page.link(f"predictions/{name}/index.html", "The page of this video, whose segments play")
    page.picture(out / "run" / "figures" / "training.png", "Its training.")
    page.heading("With your own videos").command(
        "vision-models actions extract videos/ --backbone resnet18 --weights resnet18.safetensors --out features",
        "vision-models actions train features --annotations annotations.csv --out run",
        "vision-models actions predict new.mp4 --model run/model --weights resnet18.safetensors",
    )
    page.facts([("seconds", f"{seconds:.0f}")])
    figures = {"mAP": ours.values["mAP"], "mAP without labels": mine, "AUC": ours.values["AUC"]}
    figures |= {"mAP of motion energy": motion, "AUC of motion energy": baseline.values["AUC"], "seconds": seconds}
    path = page.write(out / "report.html")
    return DemoResult(headline, path, [picture], columns, rows, figures)
