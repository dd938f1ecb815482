"""What every language model of this package shares: the transformers interface around a stack of layers.

A model is a stack (`self.model`: ids in, hidden states out, one core cache per layer) and a head. Padding and packed documents are taken out
before the stack and put back behind it, so that a mechanism sees whole sequences that begin at position 0 (`language_models.model.rows`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from core_attention.parts.cache import Cache
from language_models.model.caching import SuiteCache
from language_models.model.configs import SuiteConfig
from language_models.model.rows import find_rows

# transformers 5.24 renamed `past_key_values` to `cache`
CACHE_NAME = "cache" if "cache" in {field.name for field in fields(CausalLMOutputWithPast)} else "past_key_values"
PREFILL = 2048  # tokens of a prompt that go through the layers at once, where a mechanism does not say otherwise


class Stack(nn.Module):
    """Embedding, layers, final norm. Subclasses make the layers."""

    gradient_checkpointing = False
    _gradient_checkpointing_func: Any  # set by transformers where checkpointing is on
    embed_tokens: nn.Embedding
    layers: Any

    def new_caches(self) -> list[Cache]:
        """One empty cache per layer."""
        raise NotImplementedError

    def forward(
        self, ids: Int[Tensor, "rows time"], caches: Sequence[Cache] | None = None
    ) -> tuple[Float[Tensor, "rows time width"], Tensor | None]:
        """Hidden states after the final norm, and the sum of the layers' auxiliary losses (None where there are none)."""
        raise NotImplementedError

    def run(self, layer: Any, *arguments: Any, **options: Any) -> Any:
        """A layer, recomputed in the backward pass where gradient checkpointing is on."""
        if self.gradient_checkpointing and self.training:
            return self._gradient_checkpointing_func(partial(layer.__call__, **options), *arguments)
        return layer(*arguments, **options)


class SuiteForCausalLM(PreTrainedModel, GenerationMixin):
    """A causal language model whose mechanism comes from `core_attention`.

    ``model(input_ids, attention_mask=…, labels=…)``, ``generate``, ``save_pretrained`` and ``from_pretrained`` as in transformers. Prompts of any
    length are read in pieces of `prefill` tokens.
    """

    config_class: ClassVar[Any] = SuiteConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _tied_weights_keys: ClassVar[dict[str, str]] = {"lm_head.weight": "model.embed_tokens.weight"}
    _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = [r"rotary_emb\.inv_freq"]

    model: Stack
    lm_head: nn.Linear
    auxiliary_weight = 0.0

    if TYPE_CHECKING:  # what transformers' own annotations do not tell
        config: Any

        def generate(self, *arguments: Any, **options: Any) -> Any: ...
        def to(self, *arguments: Any, **options: Any) -> Self: ...

    @property
    def prefill(self) -> int:
        """Tokens of a prompt that are read at once."""
        return PREFILL

    def _init_weights(self, module: nn.Module) -> None:
        """Normal weights and zero biases, as in LLaMA; what has rules of its own has drawn its values already."""
        std = self.config.initializer_range
        if isinstance(module, nn.Linear) and not getattr(module, "own_initialisation", False):
            nn.init.normal_(module.weight, std=std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=std)

    def get_input_embeddings(self) -> nn.Embedding:
        return self.model.embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.embed_tokens = value  # pyright: ignore[reportAttributeAccessIssue]

    def new_cache(self) -> SuiteCache:
        """An empty cache; one for each generation."""
        return SuiteCache(self.model.new_caches)

    def forward(
        self,
        input_ids: Int[Tensor, "batch time"],
        attention_mask: Tensor | None = None,
        labels: Int[Tensor, "batch time"] | None = None,
        *,
        cache: SuiteCache | None = None,
        past_key_values: SuiteCache | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        document_ids: Int[Tensor, "batch time"] | None = None,
        return_dict: bool | None = None,
    ) -> CausalLMOutputWithPast:
        """Logits of the next token at every position.

        Args:
            input_ids: token ids.
            attention_mask: 1 is a token, 0 padding, at any side; (batch, time), with a cache the columns read before included.
            labels: next-token targets before shifting, as in transformers; −100 is left out.
            cache: what an earlier call left; updated in place. `past_key_values` is its older name.
            use_cache: True makes a cache where none is given.
            logits_to_keep: only the last so many logits; 0: all.
            document_ids: a number for each token of packed rows; a document never sees another, and no loss crosses their border.

        Raises:
            ValueError: ids outside the vocabulary, a sample that is all padding, shapes that do not fit, or packed documents with a cache.
        """
        cache = cache if cache is not None else past_key_values
        self._check(input_ids, attention_mask, labels, cache, document_ids)
        if cache is None and use_cache:
            cache = self.new_cache()
        real = None
        if attention_mask is not None:
            real = attention_mask[:, attention_mask.shape[1] - input_ids.shape[1] :].to(torch.bool)
            if bool(real.all()):
                real = None
        if cache is None:
            hidden, auxiliary = self._read_whole(input_ids, real, document_ids)
        else:
            hidden, auxiliary = self._read_on(input_ids, real, cache), None
        logits = self.lm_head(hidden[:, -logits_to_keep:] if logits_to_keep else hidden)
        loss = None
        if labels is not None:
            loss = next_token_loss(logits, labels, real, document_ids)
            if auxiliary is not None:
                loss = loss + self.auxiliary_weight * auxiliary
        return CausalLMOutputWithPast(loss=loss, logits=logits, **{CACHE_NAME: cache})  # pyright: ignore[reportArgumentType]

    def _read_whole(
        self, ids: Tensor, real: Tensor | None, document_ids: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Hidden states of whole sequences."""
        if real is None and document_ids is None:
            return self.model(ids)
        rows = find_rows(torch.ones_like(ids, dtype=torch.bool) if real is None else real, document_ids)
        hidden, auxiliary = self.model(rows.lay_out(ids))
        return rows.put_back(hidden), auxiliary

    def _read_on(self, ids: Tensor, real: Tensor | None, cache: SuiteCache) -> Tensor:
        """Hidden states of the next tokens of the sequences in a cache."""
        cache.begin(len(ids), ids.device)
        if cache.batch != len(ids):
            raise ValueError(f"the cache holds {cache.batch} samples, the call brings {len(ids)}")
        cache.length += ids.shape[1]
        if real is None and len(cache.groups) == 1:
            return self._read_group(ids, cache.groups[0])
        real = torch.ones_like(ids, dtype=torch.bool) if real is None else real
        hidden: Tensor | None = None
        for group, count in cache.split(real.sum(1)):
            if not count:
                continue
            rows = find_rows(real[group.samples])
            part = rows.put_back(self._read_group(rows.lay_out(ids[group.samples]), group))
            if hidden is None:
                hidden = part.new_zeros(*ids.shape, part.shape[-1])
            hidden = hidden.index_copy(0, group.samples, part)
        if hidden is None:  # every sample brought padding alone
            width = self.get_input_embeddings().weight.shape[1]
            hidden = self.lm_head.weight.new_zeros(*ids.shape, width)
        return hidden

    def _read_group(self, ids: Tensor, group: Any) -> Tensor:
        parts = []
        for part in ids.split(self.prefill, 1):
            parts.append(self.model(part, group.layers)[0])
            group.length += part.shape[1]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        *,
        cache: SuiteCache | None = None,
        past_key_values: SuiteCache | None = None,
        attention_mask: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 1,
        **unused: Any,
    ) -> dict[str, Any]:
        """The arguments of one step of `generate`: the tokens that the cache has not read."""
        cache = cache if cache is not None else past_key_values
        if attention_mask is not None:
            refuse_empty(attention_mask)
        whole = attention_mask is None or attention_mask.shape[1] == input_ids.shape[1]
        if cache is not None and whole:
            input_ids = input_ids[:, cache.length :]
        arguments = {"input_ids": input_ids, "attention_mask": attention_mask, "logits_to_keep": logits_to_keep}
        return {**arguments, CACHE_NAME: cache, "use_cache": use_cache}

    def _prepare_cache_for_generation(self, generation_config, model_kwargs, *rest, **options) -> bool:  # pyright: ignore
        """`generate` carries a cache of this package in place of transformers' own."""
        if model_kwargs.get(CACHE_NAME) is None and generation_config.use_cache is not False:
            model_kwargs[CACHE_NAME] = self.new_cache()
        return False

    def _check(self, ids, mask, labels, cache, document_ids) -> None:
        if ids.ndim != 2 or ids.shape[1] == 0 or ids.dtype not in (torch.long, torch.int):
            raise ValueError(
                f"input_ids are whole numbers (batch, time) with at least one token, got {ids.dtype} {tuple(ids.shape)}"
            )
        if ids.shape[1] > 1 or cache is None:  # a decoded token was drawn from the vocabulary
            least, greatest = ids.aminmax()
            size = self.get_input_embeddings().num_embeddings
            if int(least) < 0 or int(greatest) >= size:
                raise ValueError(
                    f"input_ids reach from {int(least)} to {int(greatest)}; the vocabulary has 0 … {size - 1}"
                )
        for name, x in (("labels", labels), ("document_ids", document_ids)):
            if x is not None and x.shape != ids.shape:
                raise ValueError(f"{name} {tuple(x.shape)} must have the shape of input_ids, {tuple(ids.shape)}")
        if cache is not None and document_ids is not None:
            raise ValueError("packed documents cannot go on in a cache: give each document its own row")
        if mask is None:
            return
        before = 0 if cache is None else cache.length
        if mask.ndim != 2 or mask.shape[0] != len(ids) or mask.shape[1] not in (ids.shape[1], before + ids.shape[1]):
            expected = (len(ids), before + ids.shape[1])
            raise ValueError(f"attention_mask is (batch, columns read so far) = {expected}, got {tuple(mask.shape)}")
        if cache is None:
            refuse_empty(mask)


def refuse_empty(mask: Tensor) -> None:
    """Raises ValueError where a sample is all padding."""
    empty = (mask.sum(1) == 0).nonzero()[:, 0].tolist()
    if empty:
        raise ValueError(f"samples {empty} of the batch are all padding: leave them out")


def next_token_loss(
    logits: Float[Tensor, "batch time vocabulary"],
    labels: Int[Tensor, "batch time"],
    real: Tensor | None = None,
    document_ids: Tensor | None = None,
) -> Float[Tensor, ""]:
    """Mean cross-entropy of label t + 1 under the logits of t; targets that are −100, padding, or of another document are left out."""
    targets = labels[:, 1:]
    if real is not None:
        targets = targets.masked_fill(~(real[:, 1:] & real[:, :-1]), -100)
    if document_ids is not None:
        targets = targets.masked_fill(document_ids[:, 1:] != document_ids[:, :-1], -100)
    return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), targets.flatten(), ignore_index=-100)
