"""The results of this domain."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Prediction:
    """Predicted paths of one scene and target.

    Attributes:
        scene: name of the picture.
        target: name of the searched object; None: none was named.
        objects: names of the scene's objects.
        likeliest: object index of each fixation of the likeliest path.
        samples: object indices of paths drawn from the model.
        x, y: of the likeliest path's objects, in pixels.
        step_probabilities: (steps + 1, objects + 1) along the likeliest path; the stop in the last column.
        looked_at: (objects,), share of the samples that look at the object at all.
        first_at: (objects,), mean place in the order of the samples that do, from 1; NaN for none.
        durations: of the likeliest path's fixations, in ms: the median of training fixations of their kind (`gaze.model.durations`), not
            predicted by the network; None: the training paths had none.
        sample_durations: of the samples' fixations, drawn from training fixations of their kind; None as above.
        dwell: (objects,), mean total time on the object over the samples, in ms, by these durations; None as above.
    """

    scene: str
    target: str | None
    objects: Sequence[str]
    likeliest: Sequence[int]
    samples: Sequence[Sequence[int]]
    x: Sequence[float]
    y: Sequence[float]
    step_probabilities: Sequence[Sequence[float]]
    looked_at: Sequence[float]
    first_at: Sequence[float]
    durations: Sequence[float] | None = None
    sample_durations: Sequence[Sequence[float]] | None = None
    dwell: Sequence[float] | None = None
