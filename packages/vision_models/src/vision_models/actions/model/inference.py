"""From a video's features to its segments: maps, candidates, labels, soft-NMS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from core_runtime.errors import UserError
from vision_models.actions.annotations import ANY
from vision_models.actions.features import Features
from vision_models.actions.model.detector import ActionDetector
from vision_models.actions.model.options import DetectionOptions
from vision_models.actions.model.proposals import Selection, candidates_of, soft_nms
from vision_models.actions.model.sequences import Sequence as Steps
from vision_models.actions.model.sequences import at_step, resized, windows
from vision_models.actions.results import Detections, Segment

BATCH = 8  # sequences at once
FAR, FEW = 6, 0.05  # spreads from the training's mean, and the share of values beyond them that is still usual
_ROWS = 4096  # snippets looked at at once
_MOST_CANDIDATES, _MOST_PROPOSALS = 20_000, 2_000  # of a video of any length
_PER_WINDOW = 300  # best candidates of a window that go into soft-NMS


@dataclass(frozen=True)
class FeatureSource:
    """What a model's features were made by.

    Attributes:
        backbone: its description, "" where the files did not say.
        channels: of a snippet.
        step: seconds of a snippet; 0 where videos are resized and it does not matter.
    """

    backbone: str
    channels: int
    step: float

    def refuse_other(self, backbone: str) -> None:
        """Refuses features of another backbone, where both are known.

        Raises:
            UserError: they are; the hint says how the model's own are made.
        """
        if not backbone or not self.backbone or backbone == self.backbone:
            return
        from vision_models.actions.backbones import option_words

        words = option_words(self.backbone)
        hint = "take features that were made as the model's own"
        if words:
            hint = f"make them as the model's own: 'vision-models actions extract VIDEOS {words} --out FOLDER'"
        raise UserError("these features were made by another backbone than the model's", hint)


@dataclass(frozen=True)
class ReadyDetector:
    """A loaded model with what its inputs and outputs mean.

    Attributes:
        network: on its device, in evaluation mode.
        labels: classes of its segments; empty: class-agnostic.
        source: what its features were made by.
        threshold: score from which a segment is worth showing.
        provenance: what it was made from.
        path: its folder.
    """

    network: ActionDetector
    labels: tuple[str, ...]
    source: FeatureSource
    threshold: float
    provenance: Mapping[str, Any]
    path: Path = Path()

    def detect(
        self,
        video: str,
        features: Features,
        how: DetectionOptions = DetectionOptions(),
        *,
        scores: Mapping[str, float] | None = None,
    ) -> Detections:
        """The segments of one video.

        Args:
            video: its name.
            features: of its snippets; `step` and `seconds` as far as known.
            how: the options.
            scores: label → score of the whole video by a classifier, instead of the model's own classifier of segments.
        """
        step, seconds = timing(features, self.source.step)
        sequences = self._sequences(features, step, seconds, how.overlap)
        segments, values, labels = [], [], []
        for start in range(0, len(sequences), BATCH):
            batch = sequences[start : start + BATCH]
            for proposed in self._propose(batch, how, own_labels=scores is None):
                segments.append(proposed[0])
                values.append(proposed[1])
                labels.append(proposed[2])
        spans, strength = np.concatenate(segments).clip(0.0, seconds), np.concatenate(values)
        own_chances = np.concatenate(labels) if self.labels and scores is None else None
        # the best of a long video: soft-NMS goes through all of them for each one that it takes
        order = np.argsort(-strength, kind="stable")[:_MOST_CANDIDATES]
        order = order[spans[order, 1] - spans[order, 0] > 1e-6]
        spans, strength = spans[order], strength[order]
        extent = seconds
        if self.network.config.fit == "windows":
            extent = sequences[0].seconds
        most = min(_MOST_PROPOSALS, how.proposals * max(1, len(sequences) // 4))
        most = max(most, how.proposals)
        nms = {"alpha": how.nms_alpha, "low": how.nms_low, "high": how.nms_high, "extent": extent}
        order_kept, final = soft_nms(spans, strength, most=most, keep_last=True, **nms)
        chances = None
        if own_chances is not None:
            chances = own_chances[order][order_kept]
        named = self._named(spans[order_kept], final, chances, scores, how.top_labels)
        named.sort(key=lambda segment: (-segment.score, segment.start))
        return Detections(video, seconds, named, self.threshold)

    def range_notes(self, features: Features) -> list[str]:
        """What of a video's features lies where no training features lay, as a note; mean and spread of these are in the model."""
        mean, spread = self.network.mean.cpu().numpy(), self.network.spread.cpu().numpy()
        distant = 0
        for first in range(0, len(features.values), _ROWS):  # in parts: features of hours stay in memory once
            scaled = (features.values[first : first + _ROWS] - mean) / spread
            distant += int((np.abs(scaled) > FAR).sum())
        share = distant / features.values.size
        if share <= FEW:
            return []
        low, high = float(features.values.min()), float(features.values.max())
        return [
            f"{share:.0%} of its feature values (from {low:.3g} to {high:.3g}) lie more than {FAR} spreads from the mean of the "
            "model's training features: were they made and scaled in the same way?"
        ]

    def _sequences(self, features: Features, step: float, seconds: float, overlap: float) -> list[Steps]:
        config = self.network.config
        steps = config.bmn.steps
        if config.fit == "resize":
            values = resized(features.values, steps)
            return [Steps(values, 0.0, min(seconds, len(features.values) * step), steps)]
        values = at_step(features.values, step, self.source.step)
        fill = self.network.mean.cpu().numpy()
        return windows(values, steps, self.source.step, fill=fill, overlap=overlap)

    def _propose(
        self, batch: Sequence[Steps], how: DetectionOptions, *, own_labels: bool
    ) -> list[tuple[Any, Any, Any]]:
        """Of each sequence: segments in seconds, scores, and chances of the labels."""
        network = self.network
        device, classifier = network.mean.device, network.classifier
        selection = Selection(how.candidates, how.score, how.to_the_end)
        with torch.inference_mode():
            x = torch.from_numpy(np.stack([sequence.values for sequence in batch])).transpose(1, 2).to(device)
            x = network.scaled(x)
            out = network(x)
            maps, starts, ends = (part.float().cpu().numpy() for part in out)
            results = []
            for row, sequence in enumerate(batch):
                proposed = candidates_of(maps[row], starts[row], ends[row], network.config.bmn.cells, selection)
                segments, scores = proposed
                inside = segments[:, 0] * len(sequence.values) < sequence.filled
                segments, scores = segments[inside], scores[inside]
                best = np.argsort(-scores, kind="stable")[:_PER_WINDOW]
                segments, scores = segments[best], scores[best]
                chances = None
                if own_labels and classifier is not None:
                    spans = torch.from_numpy(segments).to(x)[None]
                    chances = classifier(x[row : row + 1], spans)[0].softmax(-1)[:, :-1].cpu().numpy()
                    scores = scores * chances.sum(1)  # what the classifier takes for no action
                results.append((segments * sequence.seconds + sequence.start, scores, chances))
        return results

    def _named(
        self,
        spans: NDArray[np.float64],
        final: NDArray[np.float64],
        chances: NDArray[np.float64] | None,
        scores: Mapping[str, float] | None,
        top: int,
    ) -> list[Segment]:
        named = []
        if scores is not None:
            best = sorted(scores.items(), key=lambda entry: -entry[1])[:top]
            for (start, end), value in zip(spans.tolist(), final.tolist(), strict=True):
                for label, score in best:
                    named.append(Segment(start, end, label, value * score))
            return named
        for row, ((start, end), value) in enumerate(zip(spans.tolist(), final.tolist(), strict=True)):
            if chances is None:
                named.append(Segment(start, end, ANY, value))
                continue
            share = chances[row] / max(chances[row].sum(), 1e-9)
            for number in np.argsort(-share, kind="stable")[:top]:
                named.append(Segment(start, end, self.labels[number], value * float(share[number])))
        return named


def timing(features: Features, step: float = 0.0) -> tuple[float, float]:
    """Seconds of a snippet and of the video, each from the other where one is not stated.

    Args:
        features: of a video.
        step: taken where the features state neither.

    Raises:
        UserError: nothing states a time.
    """
    count = len(features.values)
    if features.step:
        return features.step, features.seconds or count * features.step
    if features.seconds:
        return features.seconds / count, features.seconds
    if step:
        return step, count * step
    raise UserError(
        "nothing says how long a snippet is: neither the features nor the annotations hold a time",
        "give --snippet-seconds",
    )
