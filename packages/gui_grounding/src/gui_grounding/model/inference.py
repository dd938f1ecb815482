"""A model with its pre- and post-processing: a screenshot and instructions in, points out.

One prefill gives the click: the prompt ends with the whole answer, and the hidden state at its pointer token is the query. A screen is
encoded once: vision tower, K' of the head and the language model's cache of everything before the instruction serve all instructions.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from core_runtime.errors import UserError
from gui_grounding.coordinates import View
from gui_grounding.model.folder import Loaded
from gui_grounding.model.head import scores_of
from gui_grounding.model.labels import CELL
from gui_grounding.model.patches import Patches, cut_patches, resized_size
from gui_grounding.model.pointer import Screen
from gui_grounding.model.regions import Region, entropy_of, find_regions
from gui_grounding.model.tokens import ANSWERS, DIFF, TURN_END, Action, Prompt
from gui_grounding.results import Candidate, Grounding

if TYPE_CHECKING:
    from PIL.Image import Image
    from transformers import Cache

ZOOM = 0.5  # share of each side that a second look takes


@dataclass(frozen=True)
class Asking:
    """How a screenshot is asked.

    Attributes:
        action: ``click`` or ``drag``.
        top: regions that are returned, at most.
        threshold: cells above this share of the maximum belong to a region.
        abstain_below: the model abstains where its probability of a hit (its confidence, if it is not calibrated) is below this.
        zoom: look again, enlarged, around the best regions.
        max_pixels: of the resized screenshot, at most; None: as many as the model's own limit.
    """

    action: Action = "click"
    top: int = 3
    threshold: float = 0.3
    abstain_below: float = 0.0
    zoom: bool = False
    max_pixels: int | None = None


@dataclass(frozen=True)
class EncodedScreen:
    """One screenshot as the model holds it.

    Attributes:
        patches: the resized screenshot.
        screen: vision tower's outputs and the head's keys.
        shared: token ids before the instruction.
        positions: (3, 1, shared tokens).
        cache: of the language model over the shared tokens; None: not read yet.
    """

    patches: Patches
    screen: Screen
    shared: Sequence[int]
    positions: Tensor
    cache: "Cache | None"


class Grounder:
    """A loaded model that answers.

    Args:
        loaded: network, tokens, what it expects.
    """

    def __init__(self, loaded: Loaded) -> None:
        self.loaded = loaded
        self.network, self.tokens, self.prepared = loaded.network, loaded.tokens, loaded.prepared
        parameter = next(self.network.parameters())
        self.device, self.dtype = parameter.device, parameter.dtype

    @torch.inference_mode()
    def encode(self, image: "Image", *, cached: bool = True, max_pixels: int | None = None) -> EncodedScreen:
        """A screenshot, once for all instructions.

        Args:
            image: RGB.
            cached: read the tokens before the instruction now; False where there is a single one, which is read in one piece.
            max_pixels: of the resized screenshot, at most; None: the model's own limit.

        Raises:
            UserError: it has more cells than the model takes tokens.
        """
        most = min(max_pixels or self.prepared.max_pixels, self.prepared.max_pixels)
        limits = {"min_pixels": min(self.prepared.min_pixels, most), "max_pixels": most}
        self._refuse_large(image.size, **limits)
        patches = cut_patches(image, **limits)
        screen = self.network.encode_screen(patches.values.to(self.device, self.dtype), patches.grid.to(self.device))
        cells = len(screen.embeddings)
        shared = self.tokens.prompt(self.prepared.system_message, cells, "").shared
        ids = torch.tensor([shared], device=self.device)
        positions = self.network.positions(ids, screen.grid[None])
        cache = None
        if cached:
            from gui_grounding.model.backbone import new_cache

            cache = new_cache(self.network.backbone)
            self.network.read(self.network.embed(ids, [screen.embeddings]), positions, cache=cache)
        return EncodedScreen(patches, screen, shared, positions, cache)

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt."""
        return self.network.backbone.config.text_config.max_position_embeddings

    def _refuse_large(self, size: tuple[int, int], **limits: int) -> None:
        """Before the vision tower begins to work on what can have no answer.

        Raises:
            UserError: the screenshot alone leaves no room for an instruction.
        """
        columns, rows = (side // CELL for side in resized_size(*size, **limits))
        around = self.tokens.prompt(self.prepared.system_message, 0, "x", answer=ANSWERS["drag"])
        room = self.longest - len(around.ids)
        if columns * rows > room:
            # some room for the instruction, and the sides are rounded to whole cells
            fitting = max(1, int(0.9 * room)) * CELL**2
            raise UserError(
                f"the screenshot of {size[0]} × {size[1]} pixels has {columns * rows:,} cells, the model takes {self.longest:,} tokens",
                f"--max-pixels {fitting} makes it smaller, max_pixels={fitting} where a server is asked",
            )

    @torch.inference_mode()
    def attend(self, encoded: EncodedScreen, instruction: str, action: Action) -> Tensor:
        """(pointers, cells) attention A of one instruction, float32 on the CPU."""
        prompt = self._prompt(encoded, instruction, ANSWERS[action])
        ids = torch.tensor([prompt.question], device=self.device)
        hidden = self._read_question(encoded, ids)
        queries = hidden[0, ids[0] == self.network.config.pointer_pad]
        scores = scores_of(self.network.head.logits(queries, encoded.screen.keys)).cpu()
        if not scores.isfinite().all():
            raise UserError(
                "the model's attention is not a number: its weights are damaged", "train or convert it again"
            )
        return scores

    def ground(
        self, image: "Image", instructions: Sequence[str], asking: Asking = Asking(), *, view: View | None = None
    ) -> list[Grounding]:
        """Where each instruction points.

        Args:
            image: RGB screenshot.
            instructions: at least one.
            asking: how.
            view: what the screenshot shows of the screen; None: just itself.

        Raises:
            UserError: an empty or endless instruction, a drag with zoom, or a view of another size.
        """
        view = view or View(*image.size)
        if (view.width, view.height) != image.size:
            raise UserError(
                f"the screenshot is {image.size[0]} × {image.size[1]} pixels, its view {view.width} × {view.height}"
            )
        encoded = self.encode(image, cached=len(instructions) > 1, max_pixels=asking.max_pixels)
        groundings = []
        for instruction in instructions:
            scores = self.attend(encoded, instruction, asking.action)
            grounding = self._grounding(instruction, scores, encoded.patches, view, asking)
            if asking.zoom:
                grounding = self._look_again(image, grounding, asking)
            groundings.append(grounding)
        return groundings

    @torch.inference_mode()
    def generate(
        self,
        encoded: EncodedScreen,
        instruction: str,
        *,
        longest: int = 2048,
        choose: Callable[[Tensor], int] | None = None,
    ) -> tuple[str, Tensor]:
        """Lets the model write its answer, as in the published generate mode: ``<|pointer_end|>`` is forced after each pointer.

        Args:
            encoded: with its cache.
            instruction: what the user wants.
            longest: tokens at most.
            choose: the next token from its logits; None: the likeliest.

        Returns:
            The answer, and the (pointers, cells) attention of its pointer tokens.
        """
        assert encoded.cache is not None
        prompt = self._prompt(encoded, instruction, None)
        pending = list(prompt.question)
        written: list[int] = []
        queries = []
        stops = {self.tokens.id(DIFF), self.tokens.id(TURN_END)}
        try:
            position = int(encoded.positions.max()) + 1
            while len(written) < longest:
                ids = torch.tensor([pending], device=self.device)
                places = torch.arange(position, position + len(pending), device=self.device).expand(3, 1, -1)
                embedded = self.network.backbone.get_input_embeddings()(ids)
                hidden = self.network.read(embedded, places, cache=encoded.cache)[0]
                position += len(pending)
                if pending[-1] == self.network.config.pointer_pad:
                    queries.append(hidden[-1])
                    following = self.network.config.pointer_end
                else:
                    logits = self.network.lm_logits(hidden[-1])
                    following = int(logits.argmax()) if choose is None else choose(logits)
                if following in stops:
                    break
                written.append(following)
                pending = [following]
        finally:
            _forget(encoded)
        if not queries:
            return self.tokens.decode(written), torch.zeros(0, len(encoded.screen.keys))
        logits = self.network.head.logits(torch.stack(queries), encoded.screen.keys)
        return self.tokens.decode(written), scores_of(logits).cpu()

    def _prompt(self, encoded: EncodedScreen, instruction: str, answer: str | None) -> Prompt:
        """The question about a screen.

        Raises:
            UserError: the instruction is empty, no text, or too long for the model.
        """
        if not instruction.strip():
            raise UserError("the instruction is empty", "say what is to be clicked")
        if any("\ud800" <= letter <= "\udfff" for letter in instruction):
            raise UserError(
                "the instruction holds half of a character (a surrogate, such as \\ud83d alone)", "write it in UTF-8"
            )
        prompt = self.tokens.prompt(self.prepared.system_message, 0, instruction, answer=answer)
        total = len(encoded.shared) + len(prompt.question)
        if total > self.longest:
            words, cells = len(instruction.split()), len(encoded.screen.embeddings)
            hint = "shorten it"
            if cells > self.longest // 2:
                hint = "--max-pixels makes the screenshot smaller"
            raise UserError(
                f"the instruction of {words:,} words and the {cells:,} cells of the screenshot are {total:,} tokens, the model takes {self.longest:,}",
                hint,
            )
        return prompt

    def _read_question(self, encoded: EncodedScreen, ids: Tensor) -> Tensor:
        """Hidden states of the question's tokens, after everything before them."""
        begin = int(encoded.positions.max()) + 1
        places = torch.arange(begin, begin + ids.shape[1], device=self.device).expand(3, 1, -1)
        if encoded.cache is not None:
            embedded = self.network.backbone.get_input_embeddings()(ids)
            hidden = self.network.read(embedded, places, cache=encoded.cache)
            _forget(encoded)
            return hidden
        whole = torch.cat([torch.tensor([encoded.shared], device=self.device), ids], 1)
        embedded = self.network.embed(whole, [encoded.screen.embeddings])
        hidden = self.network.read(embedded, torch.cat([encoded.positions, places], -1))
        return hidden[:, len(encoded.shared) :]

    def _grounding(self, instruction: str, scores: Tensor, patches: Patches, view: View, asking: Asking) -> Grounding:
        """Regions, confidence and abstention from the attention."""
        targets, confidence, entropy, maps = [], 1.0, 0.0, []
        for row in scores.numpy():
            regions = find_regions(
                row, patches.columns, patches.rows, threshold=asking.threshold, scoring=self.prepared.scoring
            )
            targets.append([_candidate(region, patches, view) for region in regions[: asking.top]])
            confidence = min(confidence, regions[0].mass)
            entropy = max(entropy, entropy_of(row))
            maps.append(row.reshape(patches.rows, patches.columns))
        probability = self.probability(entropy)
        judged = confidence
        if probability is not None:
            judged = probability
        return Grounding(
            instruction,
            asking.action,
            targets,
            confidence,
            entropy,
            probability,
            judged < asking.abstain_below,
            patches.size,
            view,
            maps,
        )

    def probability(self, entropy: float) -> float | None:
        """Of a hit, from the entropy of the attention, by the calibration that the model folder holds; None without one."""
        slope, offset = self.prepared.slope, self.prepared.offset
        if slope is None or offset is None:
            return None
        return 1 / (1 + math.exp(-(slope * (1 - entropy) + offset)))

    def _look_again(self, image: "Image", grounding: Grounding, asking: Asking) -> Grounding:
        """The same with the point of the best second look: half of each side around each region, enlarged, mapped back exactly.

        Confidence and abstention stay those of the first look, which the calibration is for.

        Raises:
            UserError: a drag.
        """
        if grounding.action != "click":
            raise UserError("--zoom looks at one target, a drag has two", "leave --zoom out")
        width, height = image.size
        wide, tall = max(1, round(width * ZOOM)), max(1, round(height * ZOOM))
        best, best_rank = grounding, -1.0
        for candidate in grounding.targets[0]:
            x, y = candidate.position.pixel
            left = min(max(x - wide // 2, 0), width - wide)
            top = min(max(y - tall // 2, 0), height - tall)
            enlarged = image.crop((left, top, left + wide, top + tall)).resize((width, height))
            encoded = self.encode(enlarged, cached=False, max_pixels=asking.max_pixels)
            scores = self.attend(encoded, grounding.instruction, "click")
            part = grounding.view.cut(left, top, wide, tall)
            closer = self._grounding(grounding.instruction, scores, encoded.patches, part, asking)
            rank = closer.confidence * candidate.mass
            if rank > best_rank:
                best, best_rank = closer, rank
        moved = [_seen_from(each, grounding.view) for each in best.targets[0]]
        return replace(grounding, targets=[moved])


def _forget(encoded: EncodedScreen) -> None:
    """Takes a question out of the cache again, so that the next one finds the screen alone."""
    assert encoded.cache is not None
    added = encoded.cache.get_seq_length() - len(encoded.shared)
    if added:
        encoded.cache.crop(-added)


def _candidate(region: Region, patches: Patches, view: View) -> Candidate:
    columns, rows = region.cells % patches.columns, region.cells // patches.columns
    box = (
        int(columns.min()) / patches.columns,
        int(rows.min()) / patches.rows,
        (int(columns.max()) + 1) / patches.columns,
        (int(rows.max()) + 1) / patches.rows,
    )
    return Candidate(view.place(region.x, region.y), region.score, region.mass, box)


def _seen_from(candidate: Candidate, view: View) -> Candidate:
    """A candidate of a part of the screenshot, in the whole."""
    part = candidate.position.view
    left, top, right, bottom = candidate.box
    begin = part.place(left, top).seen_from(view).normalised
    end = part.place(right, bottom).seen_from(view).normalised
    return replace(candidate, position=candidate.position.seen_from(view), box=(*begin, *end))


__all__ = ["Asking", "EncodedScreen", "Grounder"]
