"""Multimodal language models of transformers from local folders: asked plainly and with redistributed attention."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from core_attention import capture
from core_attention.mechanisms.var_sink.pretrained import VisualAttentionRedistribution, image_token, language_model_of
from core_runtime.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

FAMILIES = ("llava", "llava_next", "qwen2_vl", "qwen2_5_vl", "internvl")
ADVICE = (
    "a folder of transformers' LLaVA-1.5/1.6, Qwen2-VL, Qwen2.5-VL or InternVL; 'vision-language models' lists some"
)


@dataclass(frozen=True)
class Size:
    """What a model takes before it is loaded.

    Attributes:
        family: its `model_type`.
        layers, width, heads: of the language model.
        parameters: of all.
        weights: bytes in the dtype of its files.
        cache: bytes of the key-value cache per token.
    """

    family: str
    layers: int
    width: int
    heads: int
    parameters: int
    weights: int
    cache: int


@dataclass(frozen=True)
class Said:
    """One answer.

    Attributes:
        text: what was said.
        margin: log-probability of "yes" minus that of "no" at the first token; None where the tokenizer has no such words.
        looked: (rows, columns), mean attention of the answer's tokens on the picture's; sums to the share spent on the picture.
        edited: share of (head, query) pairs that were edited; 0 of a plain answer.
    """

    text: str
    margin: float | None
    looked: np.ndarray
    edited: float = 0.0


def read_config(folder: Path) -> Any:
    """The configuration of a model folder.

    Raises:
        UserError: no folder of transformers, or another family.
    """
    from transformers import AutoConfig

    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} holds no config.json of transformers", ADVICE)
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder}: {str(error).splitlines()[0]}", ADVICE) from None
    if config.model_type not in FAMILIES:
        raise UserError(
            f"{folder} is a {config.model_type}, known are {', '.join(FAMILIES)}", "see docs/vision-language.md"
        )
    if getattr(config, "quantization_config", None) is not None:
        raise UserError(f"{folder} is quantised; massive activations are found on the weights as published", ADVICE)
    return config


def size_of(folder: Path) -> Size:
    """What a model would need, from its configuration alone."""
    from transformers import AutoModelForImageTextToText

    config = read_config(folder)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    text = config.get_text_config()
    count = sum(parameter.numel() for parameter in model.parameters())
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    bytes_each = torch.finfo(getattr(config, "dtype", None) or torch.float32).bits // 8
    cache = 2 * text.num_hidden_layers * text.num_key_value_heads * width * bytes_each
    return Size(
        config.model_type,
        text.num_hidden_layers,
        text.hidden_size,
        text.num_attention_heads,
        count,
        count * bytes_each,
        cache,
    )


@dataclass
class Multimodal:
    """A model with its processor, ready to be asked."""

    model: Any
    processor: Any

    @property
    def config(self) -> Any:
        return self.model.config

    def inputs(self, image: Image, question: str) -> dict[str, Tensor]:
        """One prompt with one picture.

        Raises:
            UserError: the prompt holds no picture token, or not the number that the picture needs (it was cut).
        """
        text = self.prompt(question)
        try:
            given = self.processor(images=image, text=text, return_tensors="pt")
        except ValueError as error:
            raise UserError(f"the prompt and the picture do not fit: {str(error).splitlines()[0]}") from None
        count = int((given["input_ids"] == image_token(self.config)).sum())
        if not count:
            raise UserError("the prompt holds no picture token", "its chat template leaves the picture out")
        limit = getattr(self.config.get_text_config(), "max_position_embeddings", None)
        if limit is not None and given["input_ids"].shape[1] > limit:
            raise UserError(
                f"the prompt has {given['input_ids'].shape[1]} tokens, {count} of the picture; the model takes {limit}",
                "ask more shortly, or give a smaller picture",
            )
        return {name: value.to(self.model.device) for name, value in given.items()}

    def prompt(self, question: str) -> str:
        """The question in the model's own chat template; without one, as Vicuna is asked."""
        if getattr(self.processor, "chat_template", None):
            content = [{"type": "image"}, {"type": "text", "text": question}]
            message = [{"role": "user", "content": content}]
            return self.processor.apply_chat_template(message, add_generation_prompt=True)
        mark = getattr(self.processor, "image_token", "<image>")
        return f"USER: {mark}\n{question} ASSISTANT:"

    def ask(
        self,
        image: Image,
        question: str,
        *,
        redistribution: Mapping[str, Any] | None = None,
        tokens: int = 128,
    ) -> Said:
        """One greedy answer, with the map of where it looked, on the model's own attention.

        Args:
            image: the picture.
            question: about it.
            redistribution: arguments of `VisualAttentionRedistribution`; None: plain.
            tokens: of the answer, at most.
        """
        inputs = self.inputs(image, question)
        length = inputs["input_ids"].shape[1]
        image_places = inputs["input_ids"][0] == image_token(self.config)
        names = [name for name, module in self.model.named_modules() if module in set(self._attentions())]
        edits = nullcontext() if redistribution is None else VisualAttentionRedistribution(self.model, **redistribution)
        arguments = {
            "max_new_tokens": tokens,
            "do_sample": False,
            "output_logits": True,
            "return_dict_in_generate": True,
        }
        with (
            torch.inference_mode(),
            edits as var,
            capture(self.model, layers=names, rows=[-1], kinds="weights") as maps,
        ):
            answered = self.model.generate(**inputs, **arguments)
        first = answered.logits[0][0].float()
        if not bool(first.isfinite().all()):
            raise UserError(
                "the model's logits are not finite numbers", "its weights are damaged, or its precision too low"
            )
        text = self.processor.batch_decode(answered.sequences[:, length:], skip_special_tokens=True)[0].strip()
        total = torch.zeros(int(image_places.sum()))
        for name in names:
            for weights in maps.all(name):
                total += weights[0, :, 0, :length].mean(0).float().cpu()[image_places.cpu()] / len(maps.all(name))
        looked = (total / len(names)).reshape(self.grid(inputs, len(total))).numpy()
        edited = 0.0 if var is None else var.edited_share
        return Said(text, self._margin(first), looked, edited)

    def _attentions(self) -> list[Any]:
        return [layer.self_attn for layer in language_model_of(self.model).layers]

    def grid(self, inputs: Mapping[str, Tensor], count: int) -> tuple[int, int]:
        """Rows and columns of the picture's tokens; one row where they are no rectangle (LLaVA-1.6's several views)."""
        grid = inputs.get("image_grid_thw")
        if grid is not None:
            merge = getattr(self.config.vision_config, "spatial_merge_size", 2)
            return int(grid[0, 1]) // merge, int(grid[0, 2]) // merge
        side = math.isqrt(count)
        return (side, side) if side * side == count else (1, count)

    def _margin(self, logits: Tensor) -> float | None:
        scores = logits.log_softmax(-1)
        best = []
        for word in ("yes", "no"):
            ids = set()
            for spelling in (word, word.capitalize(), f" {word}", f" {word.capitalize()}"):
                tokens = self.processor.tokenizer.encode(spelling, add_special_tokens=False)
                if len(tokens) == 1 and tokens[0] != self.processor.tokenizer.unk_token_id:
                    ids.add(tokens[0])
            if not ids:
                return None
            best.append(float(scores[list(ids)].logsumexp(0)))
        return best[0] - best[1]


def load_multimodal(folder: Path, device: str = "cpu") -> Multimodal:
    """A model and its processor from a folder, every tensor of it.

    Raises:
        UserError: another kind of folder, or tensors that are missing, left over or of another shape.
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor

    config = read_config(folder)
    try:
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            folder, config=config, local_files_only=True, output_loading_info=True, dtype="auto"
        )
        model, told = loaded
        processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UserError(f"{folder}: {str(error).splitlines()[0]}", "are all of its files there, shards too?") from None
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if told.get(what):
            names = sorted(str(name) for name in told[what])
            raise UserError(
                f"{folder}: {len(names)} {what.replace('_', ' ')}: {', '.join(names[:3])}", "fetch it again"
            )
    return Multimodal(model.to(device).eval(), processor)
