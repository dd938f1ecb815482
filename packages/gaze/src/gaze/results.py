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
        likeliest: object index of each fixation of the path that was decoded: the likeliest object at every step, or with `beams` the
            likeliest whole path that the search found. A greedy path need not be a likely one.
        samples: object indices of paths drawn from the model.
        x, y: of the likeliest path's objects, in pixels.
        step_probabilities: (steps + 1, objects + 1) along that path; the stop in the last column. Without the last row where the path
            did not stop.
        looked_at: (objects,), share of the samples that look at the object at all.
        first_at: (objects,), mean number of the fixation that reaches it first: the mean place in the order of the samples that do, from 1; NaN for none.
        beams: of the search; 0: greedy.
        longest: fixations at which a path is cut.
        stopped: whether the decoded path stopped before that.
        samples_stopped: how many samples did.
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
    beams: int
    longest: int
    stopped: bool
    samples_stopped: int
    durations: Sequence[float] | None = None
    sample_durations: Sequence[Sequence[float]] | None = None
    dwell: Sequence[float] | None = None
