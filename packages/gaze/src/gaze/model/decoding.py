"""From a scene to paths: greedy, sampled and beam decoding, with keys and values of earlier steps kept.

A path has at least one fixation (the first step cannot stop) and ends before the first stop; the placeholder is never chosen.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from gaze.model.layers import StepCache
from gaze.model.oat import OAT, Encoded, Tokens


@dataclass(frozen=True)
class Path:
    """One predicted scanpath.

    Attributes:
        objects: index of the object of each fixation.
        log_probability: of the whole path, its stop included.
        stopped: whether the model stopped; False: the path reached the largest length.
        probabilities: (steps, objects + 1), what the model thought at each step, the stop in the last column; None unless asked for.
    """

    objects: list[int]
    log_probability: float
    stopped: bool
    probabilities: Tensor | None = field(default=None, compare=False)


class _Steps:
    """The decoder step by step: log-probabilities of the next choice for every row."""

    def __init__(self, model: OAT, tokens: Tokens, rows: int, steps: int) -> None:
        self.model, self.steps = model, steps
        self.encoded: Encoded = model.encode(tokens)
        self.caches = [StepCache() for _ in model.decoder]
        self.stop = tokens.source.shape[1] - 1
        self.last = torch.full((len(tokens.source) * rows, 1), self.stop + 2, device=tokens.source.device)  # begin
        self.taken = 0

    def next(self) -> Float[Tensor, "rows choices"]:
        """Log-probabilities of the objects and the stop, after the last choices."""
        x = self.model.step_tokens(self.encoded.tokens, self.last, start=self.taken)
        # a first path through the loop reads the begin token, so that the caches hold one step more than fixations
        decoded = self.model.decode(self.encoded, x, caches=self.caches, room=self.steps + 1)
        logits = self.model.point(self.encoded, decoded)[:, 0, :-1]
        if self.taken == 0:
            logits = logits.clone()
            logits[:, self.stop] = -torch.inf
        self.taken += 1
        return logits.log_softmax(-1)

    def choose(self, choices: Int[Tensor, " rows"]) -> None:
        self.last = choices[:, None]

    def reorder(self, rows: Int[Tensor, " rows"]) -> None:
        """Goes on with these rows, in this order."""
        self.last = self.last[rows]
        for cache in self.caches:
            cache.reorder(rows)


@torch.no_grad()
def decode_greedily(model: OAT, tokens: Tokens, *, steps: int, probabilities: bool = False) -> list[list[Path]]:
    """The likeliest next object at every step; one path per scene.

    Args:
        model: in eval mode.
        tokens: of the scenes, `OAT.embed`.
        steps: largest length of a path.
        probabilities: keep what the model thought at each step.
    """

    def likeliest(logs: Tensor, step: int, rows: Tensor) -> Tensor:
        return logs.argmax(-1)

    return _decode(model, tokens, 1, steps, likeliest, probabilities)


@torch.no_grad()
def sample_paths(
    model: OAT,
    tokens: Tokens,
    *,
    samples: int,
    steps: int,
    seeds: Sequence[int],
    temperature: float = 1.0,
    probabilities: bool = False,
) -> list[list[Path]]:
    """Paths drawn from the model, all samples of all scenes in one batch.

    A scene's paths depend on its seed alone: not on the other scenes of the batch, nor on how many samples are drawn.

    Args:
        model: in eval mode.
        tokens: of the scenes.
        samples: paths per scene.
        steps: largest length of a path.
        seeds: one per scene.
        temperature: below 1 likelier paths, above 1 more varied ones; `log_probability` is that of the model itself.
        probabilities: keep what the model thought at each step.

    Raises:
        ValueError: not one seed per scene, or a temperature that is not positive.
    """
    if len(seeds) != len(tokens.source):
        raise ValueError(f"one seed per scene: {len(tokens.source)} scenes, {len(seeds)} seeds")
    if temperature <= 0:
        raise ValueError(f"the temperature is positive, got {temperature}")
    draws = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        draws.append(torch.rand(samples, steps, generator=generator, dtype=torch.float64))
    uniforms = torch.cat(draws).to(tokens.source.device)

    def drawn(logs: Tensor, step: int, rows: Tensor) -> Tensor:
        shares = (logs.double() / temperature).softmax(-1).cumsum(-1)
        # the first choice whose cumulative share exceeds the draw; the draw is scaled to the total, which rounding may leave below 1
        threshold = uniforms[rows, step, None] * shares[:, -1:]
        return torch.searchsorted(shares, threshold, right=True)[:, 0].clamp(max=logs.shape[-1] - 1)

    return _decode(model, tokens, samples, steps, drawn, probabilities)


def _decode(model: OAT, tokens: Tokens, rows: int, steps: int, choose, keep: bool) -> list[list[Path]]:
    """`choose` takes log-probabilities (rows, choices), the step and which rows they are, and gives one choice per row."""
    scenes = len(tokens.source)
    decoder = _Steps(model, tokens, rows, steps)
    device = tokens.source.device
    choices = torch.full((scenes * rows, steps), decoder.stop, device=device)
    total = torch.zeros(scenes * rows, dtype=torch.float64, device=device)
    going = torch.arange(scenes * rows, device=device)  # the rows that are decoded, as many of each scene
    running = torch.ones(scenes * rows, dtype=torch.bool, device=device)  # of these
    thoughts = []
    for step in range(steps):
        logs = decoder.next()
        choice = choose(logs, step, going)
        if keep:
            thoughts.append(logs.exp())
        taken = logs.gather(-1, choice[:, None])[:, 0].double()
        total[going] += torch.where(running, taken, 0.0)
        choices[going, step] = torch.where(running, choice, decoder.stop)
        running = running & (choice != decoder.stop)
        decoder.choose(choice)
        busiest = int(running.reshape(scenes, -1).sum(1).max())
        if not busiest:
            break
        if not keep and 2 * busiest <= len(running) // scenes:
            # most paths have ended: go on with the others alone, as many rows of each scene as the busiest needs
            order = running.reshape(scenes, -1).argsort(dim=1, descending=True, stable=True)[:, :busiest]
            left = (order + torch.arange(scenes, device=device)[:, None] * (len(running) // scenes)).flatten()
            decoder.reorder(left)
            going, running = going[left], running[left]
    lengths = (choices != decoder.stop).sum(-1).tolist()
    totals = total.tolist()
    thinking = None
    if keep:
        thinking = torch.stack(thoughts, 1)
    paths = []
    for row, (steps_taken, length) in enumerate(zip(choices.tolist(), lengths, strict=True)):
        thought = None
        if thinking is not None:
            thought = thinking[row, : min(length + 1, thinking.shape[1])]
        paths.append(Path(steps_taken[:length], totals[row], length < steps, thought))
    return [paths[scene * rows : (scene + 1) * rows] for scene in range(scenes)]


@torch.no_grad()
def follow_paths(model: OAT, tokens: Tokens, paths: Sequence[Sequence[int]], *, steps: int) -> list[Path]:
    """What the model thinks along given paths, one per scene: their probability, and that of every choice at each step.

    Args:
        model: in eval mode.
        tokens: of the scenes.
        paths: object indices, at most `steps`; a shorter one is followed by its stop.
        steps: largest length of a path.
    """
    stop = tokens.source.shape[1] - 1
    targets = torch.full((len(paths), steps), stop, device=tokens.source.device)
    for row, path in enumerate(paths):
        targets[row, : len(path)] = torch.tensor(list(path), device=targets.device)

    def given(logs: Tensor, step: int, rows: Tensor) -> Tensor:
        return targets[rows, step]

    return [followed[0] for followed in _decode(model, tokens, 1, steps, given, True)]


@torch.no_grad()
def search_beams(model: OAT, tokens: Tokens, *, beams: int, steps: int) -> list[list[Path]]:
    """The likeliest whole paths that a beam search finds, the likeliest first; `beams` per scene.

    Args:
        model: in eval mode.
        tokens: of the scenes.
        beams: paths that go on at every step.
        steps: largest length of a path.
    """
    scenes = len(tokens.source)
    decoder = _Steps(model, tokens, beams, steps)
    device, stop = tokens.source.device, decoder.stop
    totals = torch.full((scenes, beams), -torch.inf, dtype=torch.float64, device=device)
    totals[:, 0] = 0  # all beams begin alike: only the first counts
    ended = torch.zeros(scenes, beams, dtype=torch.bool, device=device)
    choices = torch.full((scenes, beams, steps), stop, device=device)
    for step in range(steps):
        logs = decoder.next().double().reshape(scenes, beams, -1)
        # an ended path has one continuation, at no cost
        logs = logs.masked_fill(ended[..., None], -torch.inf)
        logs[..., stop] = torch.where(ended, 0.0, logs[..., stop])
        candidates = (totals[..., None] + logs).flatten(1)
        totals, best = candidates.topk(beams, -1)
        parent, choice = best // logs.shape[-1], best % logs.shape[-1]
        choices = choices.gather(1, parent[..., None].expand(-1, -1, steps)).clone()
        choices[..., step] = choice
        ended = ended.gather(1, parent) | (choice == stop)
        if bool(ended.all()):
            break
        offset = torch.arange(scenes, device=device)[:, None] * beams
        decoder.reorder((parent + offset).flatten())
        decoder.choose(choice.flatten())
    paths = []
    for scene in range(scenes):
        beams_here = []
        for beam in range(beams):
            if totals[scene, beam].isinf():  # fewer different paths than beams
                continue
            objects = choices[scene, beam].tolist()
            length = steps
            if stop in objects:
                length = objects.index(stop)
            beams_here.append(Path(objects[:length], totals[scene, beam].item(), bool(ended[scene, beam])))
        paths.append(beams_here)
    return paths


def pad_steps(
    paths: Sequence[Sequence[int]], stop: int
) -> tuple[Int[Tensor, "paths steps"], Int[Tensor, "paths steps"]]:
    """Teacher forcing: what the decoder reads (begin, objects) and what follows (objects, stop), padded with ``stop + 1``."""
    longest = max(map(len, paths))
    whole = [F.pad(torch.tensor([stop + 2, *path, stop]), (0, longest - len(path)), value=stop + 1) for path in paths]
    sequence = torch.stack(whole)
    return sequence[:, :-1], sequence[:, 1:]
