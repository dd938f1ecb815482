"""Landmark attention as a language model: LLaMA (`landmark-llama`) and the paper's small GPT (`landmark-gpt`).

Landmarks are put into the ids and taken out of the logits here: users see plain ids. Where the landmark is part of the loss (LLaMA,
`landmark_predicts`) it is the landmark that predicts the token after its block, and the logits at a block's last token are the landmark's.
Source: Mohtashami & Jaggi, "Landmark Attention: Random-Access Infinite Context Length for Transformers", NeurIPS 2023, arXiv 2305.16300.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn
from torch.nn import functional as F

from core_attention.mechanisms.landmark.attention import insert_landmarks, jumped_positions
from core_attention.mechanisms.landmark.layer import LandmarkAttention
from core_attention.mechanisms.landmark.memory import chunk_length
from core_attention.parts.cache import Cache
from core_attention.parts.rotary import Pairing
from language_models.model.caching import SuiteCache
from language_models.model.causal import Stack, SuiteForCausalLM
from language_models.model.configs import SuiteConfig
from language_models.model.decoder import Decoder, Mixed


class LandmarkConfig(SuiteConfig):
    """LLaMA with landmarks.

    Attributes:
        mem_id: token id of the landmark; the vocabulary holds it.
        mem_freq: ordinary tokens in a block.
        train_context_length: positions of a training context, landmarks included; chunks of a prompt stay within it.
        include_landmark_in_loss: the landmark predicts the token behind its block.
        cache_top_k: blocks that a query reads from the memory.
        selection: ``"per_token_and_head"``, ``"max_over_heads"`` or ``"max_over_tokens"``.
        memory_blocks: blocks that the memory keeps, oldest forgotten first; None: all.
        offload_cache_to_cpu: blocks lie on the CPU; blocks are then chosen for a chunk together, as published.
        group_dropout: see `core_attention.mechanisms.landmark.attention.grouped_softmax`.
        pos_jump: training option: after each landmark all positions jump by a random number below this.
    """

    model_type = "landmark-llama"
    mem_id: int = 257
    mem_freq: int = 50
    train_context_length: int = 512
    include_landmark_in_loss: bool = True
    cache_top_k: int = 4
    selection: str = "per_token_and_head"
    memory_blocks: int | None = None
    offload_cache_to_cpu: bool = False
    group_dropout: float = 0.0
    pos_jump: int | None = None

    @property
    def block(self) -> int:
        """Positions of a block, its landmark included."""
        return self.mem_freq + 1

    def check(self) -> None:
        super().check()
        if not 0 <= self.mem_id < self.vocab_size:
            raise ValueError(f"mem_id {self.mem_id} is not in the vocabulary 0 … {self.vocab_size - 1}")
        if self.mem_freq < 1:
            raise ValueError(f"mem_freq is at least 1, got {self.mem_freq}")

    def memory_options(self) -> dict[str, Any]:
        """The options of the memory of each layer."""
        choice = "max_over_tokens" if self.offload_cache_to_cpu else self.selection
        return {"choice": choice, "capacity": self.memory_blocks, "offload": self.offload_cache_to_cpu}


class LandmarkGPTConfig(LandmarkConfig):
    """The paper's small language model: pre-norm GPT with interleaved rotary positions.

    Attributes:
        bias: biases of linear layers and layer norms.
    """

    model_type = "landmark-gpt"
    vocab_size: int = 50304
    hidden_size: int = 1024
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    mem_id: int = 50260
    include_landmark_in_loss: bool = False
    tie_word_embeddings: bool = True
    rms_norm_eps: float = 1e-5
    bias: bool = False


def landmark_layer(config: LandmarkConfig, *, pairing: Pairing = "half", bias: bool = False) -> LandmarkAttention:
    """The attention of one layer."""
    return LandmarkAttention(
        config.hidden_size,
        config.num_attention_heads,
        num_kv_heads=config.num_key_value_heads,
        block=config.block,
        pairing=pairing,
        theta=config.rope_theta,
        bias=bias,
        group_dropout=config.group_dropout,
    )


class LandmarkStack(Decoder):
    """A decoder that sees a landmark after every `mem_freq` tokens; ids in and hidden states out are of tokens alone."""

    def __init__(self, config: LandmarkConfig) -> None:
        super().__init__(config, lambda i: landmark_layer(config))
        self.config = config

    def new_caches(self) -> list[Cache]:
        memories: list[Cache] = []
        for layer in self.layers:
            memories.append(layer.self_attn.new_cache(self.config.cache_top_k, **self.config.memory_options()))
        return memories

    def forward(self, ids: Int[Tensor, "rows time"], caches: Sequence[Cache] | None = None) -> Mixed:
        every = self.config.mem_freq
        before = 0
        if caches is not None:
            positions = caches[0].length  # pyright: ignore[reportAttributeAccessIssue]
            before = positions - positions // self.config.block
        token = torch.arange(ids.shape[1], device=ids.device)
        place = token + (before % every + token) // every
        if self.config.include_landmark_in_loss:  # a finished block speaks through its landmark
            place = place + ((before + token + 1) % every == 0)
        stream = insert_landmarks(ids, self.config.mem_id, every, before=before)
        if caches is None:
            hidden = self.read(stream)
        elif ids.shape[1] == 1 and self.config.memory_options()["choice"] != "max_over_tokens":
            # a token and its landmark one after the other: the memory has a short way for one
            hidden = torch.cat([self.read(part, caches) for part in stream.split(1, 1)], 1)
        else:
            hidden = self.read(stream, caches)
        return hidden[:, place], None

    def read(
        self,
        stream: Int[Tensor, "rows time"],
        caches: Sequence[Cache] | None = None,
        is_landmark: Bool[Tensor, "..."] | None = None,
    ) -> Tensor:
        """Hidden states of a stream that holds its landmarks.

        Args:
            is_landmark: where they stand, if not regularly.
        """
        options = {}
        jump = self.config.pos_jump
        if jump and self.training and caches is None:
            flags = stream == self.config.mem_id if is_landmark is None else is_landmark
            jumps = torch.randint(jump, stream.shape, device=stream.device)
            options["positions"] = jumped_positions(flags.expand(stream.shape), jumps)
        if is_landmark is not None:
            options["is_landmark"] = is_landmark
        return self.norm(self.through(self.embed_tokens(stream), caches, **options)[0])


class LandmarkForCausalLM(SuiteForCausalLM):
    """`LandmarkConfig` as a language model."""

    config_class: ClassVar[Any] = LandmarkConfig
    config: LandmarkConfig
    model: LandmarkStack

    def __init__(self, config: LandmarkConfig) -> None:
        super().__init__(config)
        self.model = self._stack(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def _stack(self, config: LandmarkConfig) -> LandmarkStack:
        return LandmarkStack(config)

    def new_cache(self) -> SuiteCache:
        """An empty cache; it counts the landmarks too."""
        return SuiteCache(self.model.new_caches, lambda tokens: tokens + tokens // self.config.mem_freq)

    @property
    def prefill(self) -> int:
        """Tokens whose chunk, with the blocks that it reads, stays within the context of training.

        Raises:
            ValueError: nothing is left for the chunk.
        """
        config = self.config
        positions = chunk_length(config.train_context_length, config.block, config.cache_top_k)
        return positions // config.block * config.mem_freq


class GPTLayer(nn.Module):
    """``h = x + Attention(LN x)``, ``y = h + MLP(LN h)`` with exact GELU, four times as wide inside."""

    def __init__(self, config: LandmarkGPTConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.ln_1 = nn.LayerNorm(width, eps=config.rms_norm_eps, bias=config.bias)
        self.self_attn = landmark_layer(config, pairing="interleaved", bias=config.bias)
        self.ln_2 = nn.LayerNorm(width, eps=config.rms_norm_eps, bias=config.bias)
        self.c_fc = nn.Linear(width, 4 * width, bias=config.bias)
        self.c_proj = nn.Linear(4 * width, width, bias=config.bias)

    def forward(self, x: Tensor, cache: Cache | None = None, **options: Any) -> Mixed:
        """As `DecoderLayer.forward`."""
        x = x + self.self_attn(self.ln_1(x), cache=cache, **options)
        return x + self.c_proj(F.gelu(self.c_fc(self.ln_2(x)))), None


class LandmarkGPTStack(LandmarkStack):
    """`LandmarkStack` with GPT layers."""

    def __init__(self, config: LandmarkGPTConfig) -> None:
        Stack.__init__(self)
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(GPTLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.rms_norm_eps, bias=config.bias)


class LandmarkGPTForCausalLM(LandmarkForCausalLM):
    """`LandmarkGPTConfig` as a language model."""

    config_class: ClassVar[Any] = LandmarkGPTConfig

    def __init__(self, config: LandmarkGPTConfig) -> None:
        super().__init__(config)

    def _stack(self, config: LandmarkConfig) -> LandmarkStack:
        assert isinstance(config, LandmarkGPTConfig)
        return LandmarkGPTStack(config)
