"""Layer-wise relevance propagation through any model: what flows back through the graph is relevance instead of gradients.

A `TorchFunctionMode` sees every operation of a forward pass, in modules and in functional code alike, and replaces those that mix values
by ones whose backward pass is a rule. Nothing of the model is touched: no hooks, no copies, nothing to undo. Operations that only move
values (reshape, permute, cat …) route relevance by themselves; elementwise activations pass it on; products with softmaxed attention send
it to the values; normalisations count their statistics as constants; sums share it out in proportion. What has no rule is an error that
names the operation.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode, resolve_name

from explainability.attribution.composites import STABLE, Composite
from explainability.attribution.operations import (
    CONSTANT,
    LINEAR,
    MIXING,
    MOVING,
    PASSING,
    PRODUCTS,
    PRODUCTS_OF_MATRICES,
    SUMS,
)
from explainability.salient_relevance.rules import propagate_linear, propagate_max_pool, stabilised


@dataclass
class Step:
    """One operation with a rule.

    Attributes:
        module: the module that ran it.
        operation: its name.
        rule: in words.
        relevance_out: sum of the relevance of its output.
        relevance_in: sum of the relevance that it passed on.
    """

    module: str
    operation: str
    rule: str
    relevance_out: float = 0.0
    relevance_in: float = 0.0


class _Rule(torch.autograd.Function):
    """An operation whose backward pass is a function of its relevance."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, back: Callable[[Tensor], Sequence[Tensor]], step: Step, *inputs: Tensor):
        ctx.back, ctx.step = back, step
        return output.clone()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor):
        relevance = grad_outputs[0]
        shares = ctx.back(relevance)
        ctx.step.relevance_out += float(relevance.sum())
        ctx.step.relevance_in += float(sum(share.sum() for share in shares))
        return None, None, None, *shares


class RelevanceMode(TorchFunctionMode):
    def __init__(self, model: nn.Module, composite: Composite):
        super().__init__()
        self.composite = composite
        self.names = {id(module): name for name, module in model.named_modules()}
        self.stack: list[str] = []
        self.steps: list[Step] = []
        self.first = True
        self.convolved: dict[int, tuple[Tensor, Callable, Tensor, Tensor, Tensor | None]] = {}

    def __enter__(self):
        def enter(module: nn.Module, args: Any) -> None:
            self.stack.append(self.names.get(id(module), type(module).__name__))

        def leave(module: nn.Module, args: Any, output: Any) -> None:
            self.stack.pop()

        self.hooks = [
            register_module_forward_pre_hook(enter),
            register_module_forward_hook(leave, always_call=True),
        ]
        return super().__enter__()

    def __exit__(self, *error: Any):
        for hook in self.hooks:
            hook.remove()
        self.convolved.clear()
        return super().__exit__(*error)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "__get__" or not _needs_rule(args, kwargs):
            return func(*args, **kwargs)
        if name in LINEAR:
            return self._linear(func, name, args, kwargs)
        if name in CONSTANT:
            return func(*args, **kwargs).detach()
        if name == "batch_norm":
            return self._batch_norm(*args, **kwargs)
        if name in ("layer_norm", "group_norm", "instance_norm"):
            return self._normalise(func, name, args, kwargs)
        if name == "scaled_dot_product_attention":
            return self._attention(*args, **kwargs)
        if name == "multi_head_attention_forward":
            return self._multi_head(*args, **kwargs)
        if name in PRODUCTS_OF_MATRICES:
            return self._matmul(func, name, args)
        if name in ("max_pool2d", "max_pool2d_with_indices", "boolean_dispatch"):
            return self._max_pool(*args, **kwargs)
        if name in SUMS:
            return self._sum(name, *args, **kwargs)
        if name in PRODUCTS:
            return self._product(name, *args)
        if name in MIXING:
            return self._mix(func, name, args, kwargs)
        if name in PASSING:
            return self._pass(func, name, args, kwargs)
        output = func(*args, **kwargs)
        if name in MOVING or not _carries_gradient(output):
            return output
        return self._unknown(func, name, args, output)

    def _step(self, operation: str, rule: str) -> Step:
        step = Step(self.stack[-1] if self.stack else "", operation, rule)
        self.steps.append(step)
        return step

    def _linear(self, func: Any, name: str, args: Any, kwargs: Any) -> Tensor:
        x, weight = args[0], args[1]
        bias = args[2] if len(args) > 2 else kwargs.get("bias")
        rest = args[3:]
        options = {key: value for key, value in kwargs.items() if key != "bias"}

        def apply(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            return func(x, weight, bias, *rest, **options)

        output = self._apply_linear(apply, name, x, weight, bias)
        if name != "linear":
            self.convolved[id(output)] = (output, apply, x, weight, bias)
        return output

    def _apply_linear(self, apply: Any, name: str, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        rule = self.composite.linear if name == "linear" else self.composite.convolution
        if self.first and self.composite.first is not None:
            rule = self.composite.first
        self.first = False
        detached = x.detach()
        output = apply(detached, weight.detach(), None if bias is None else bias.detach())
        step = self._step(name, rule.describe())
        return _Rule.apply(
            output, lambda relevance: [propagate_linear(apply, detached, weight, bias, relevance, rule)], step, x
        )  # pyright: ignore[reportReturnType]

    def _batch_norm(
        self, x: Tensor, mean: Tensor, var: Tensor, weight: Any = None, bias: Any = None, training: bool = False,
        momentum: float = 0.1, eps: float = 1e-5,
    ) -> Tensor:  # fmt: skip
        if training:
            raise ValueError(
                "relevance needs a model in evaluation mode: batch normalisation mixes samples in training"
            )
        scale = (var + eps).rsqrt() * (1 if weight is None else weight)
        shift = (0 if bias is None else bias) - mean * scale
        known = self.convolved.pop(id(x), None)
        if known is not None and known[0] is x:
            # one layer with the convolution before it, as canonisers fold it
            _, apply, source, kernel, offset = known
            self.first = len(self.steps) == 1
            self.steps.pop()
            folded = kernel * scale.view(-1, *(1,) * (kernel.ndim - 1))
            total = shift if offset is None else offset * scale + shift
            return self._apply_linear(apply, "convolution with batch normalisation", source, folded, total)
        shape = (1, -1, *(1,) * (x.ndim - 2))
        detached = x.detach()
        output = detached * scale.detach().view(shape) + shift.detach().view(shape)
        step = self._step("batch_norm", "passes")
        return _Rule.apply(output, lambda relevance: [relevance], step, x)  # pyright: ignore[reportReturnType]

    def _by_share(self, name: str, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """A linear operation without weights: each input's share in each output."""
        detached = x.detach()
        with torch.enable_grad():
            source = detached.clone().requires_grad_()
            z = function(source)

        def back(relevance: Tensor) -> list[Tensor]:
            fraction = relevance / stabilised(z.detach(), STABLE)
            return [detached * torch.autograd.grad(z, source, fraction, retain_graph=True)[0]]

        return _Rule.apply(z.detach(), back, self._step(name, "by share"), x)  # pyright: ignore[reportReturnType]

    def _normalise(self, func: Any, name: str, args: Any, kwargs: Any) -> Tensor:
        x = args[0]
        if name != "layer_norm":
            with torch.no_grad():
                output = func(*args, **kwargs)
            return _Rule.apply(output, lambda relevance: [relevance], self._step(name, "passes"), x)  # pyright: ignore[reportReturnType]
        given = dict(zip(("shape", "weight", "bias", "eps"), args[1:], strict=False)) | kwargs
        weight, bias, eps = given.get("weight"), given.get("bias"), given.get("eps", 1e-5)
        shape = given.get("shape", given.get("normalized_shape"))
        axes = tuple(range(-len(tuple(shape)), 0))
        deviation = (x.detach().var(axes, correction=0, keepdim=True) + eps).sqrt()

        def centred(source: Tensor) -> Tensor:
            z = (source - source.mean(axes, keepdim=True)) / deviation
            z = z if weight is None else z * weight.detach()
            return z if bias is None else z + bias.detach()

        return self._by_share(name, centred, x)

    def _attention(
        self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
        is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
    ) -> Tensor:  # fmt: skip
        if enable_gqa and query.shape[-3] != key.shape[-3]:
            times = query.shape[-3] // key.shape[-3]
            key, value = key.repeat_interleave(times, -3), value.repeat_interleave(times, -3)
        factor = query.shape[-1] ** -0.5 if scale is None else scale
        scores = query.detach() @ key.detach().mT * factor
        if is_causal:
            scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), float("-inf"))
        if attn_mask is not None:
            scores = (
                scores.masked_fill(~attn_mask, float("-inf")) if attn_mask.dtype == torch.bool else scores + attn_mask
            )
        weights = scores.softmax(-1)
        return self._by_share("attention", lambda source: weights @ source, value)

    def _multi_head(
        self, query: Tensor, key: Tensor, value: Tensor, width: int, heads: int, weight: Tensor | None, bias: Any,
        bias_k: Any, bias_v: Any, add_zero_attn: bool, dropout_p: float, out_weight: Tensor, out_bias: Any, **rest: Any,
    ) -> tuple[Tensor, None]:  # fmt: skip
        """`torch.nn.MultiheadAttention` over (tokens, batch, width), as self-attention without masks."""
        masked = rest.get("attn_mask") is not None or rest.get("key_padding_mask") is not None
        if query is not key or key is not value or weight is None or masked or bias_k is not None or add_zero_attn:
            raise ValueError("relevance through nn.MultiheadAttention is defined for self-attention without masks")
        weights = weight.chunk(3)
        biases = (None,) * 3 if bias is None else bias.chunk(3)
        values = self._apply_linear(F.linear, "linear", query, weights[2], biases[2])
        split = []
        for number, x in enumerate((query.detach(), query.detach(), values)):
            projected = x if number == 2 else F.linear(x, weights[number].detach(), biases[number])
            split.append(projected.unflatten(2, (heads, -1)).permute(1, 2, 0, 3))
        mixed = self._attention(*split).permute(2, 0, 1, 3).flatten(2)
        return self._apply_linear(F.linear, "linear", mixed, out_weight, out_bias), None

    def _matmul(self, func: Any, name: str, args: Any) -> Tensor:
        a, b = args[0], args[1]
        if not b.requires_grad:
            return self._by_share(name, lambda source: func(source, b.detach()), a)
        if not a.requires_grad:
            return self._by_share(name, lambda source: func(a.detach(), source), b)
        # queries and keys: their product leaves only through a softmax, which counts as a constant
        return func(a.detach(), b.detach())

    def _max_pool(
        self,
        x: Tensor,
        kernel: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> Any:
        if return_indices:
            raise ValueError("relevance through max-pooling that returns its indices has no rule")
        pool = nn.MaxPool2d(kernel, stride or kernel, padding, dilation, ceil_mode=ceil_mode)
        detached = x.detach()
        output = pool(detached)
        return _Rule.apply(
            output,
            lambda relevance: [propagate_max_pool(pool, detached, relevance)],
            self._step("max_pool2d", "winner takes all"),
            x,
        )

    def _sum(self, name: str, a: Any, b: Any, alpha: float = 1) -> Tensor:
        sign = -1 if "sub" in name else 1
        parts = [a if isinstance(a, Tensor) else torch.as_tensor(a), b if isinstance(b, Tensor) else torch.as_tensor(b)]
        values = [parts[0].detach(), sign * alpha * parts[1].detach()]
        output = values[0] + values[1]
        carrying = [number for number in (0, 1) if parts[number].requires_grad]
        if len(carrying) == 1:
            # a position embedding or a constant: what carries relevance keeps all of it
            (number,) = carrying
            shape = parts[number].shape
            return _Rule.apply(output, lambda r: [r.sum_to_size(shape)], self._step(name, "passes"), parts[number])  # pyright: ignore[reportReturnType]

        def back(relevance: Tensor) -> list[Tensor]:
            fraction = relevance / stabilised(output, STABLE)
            return [(value * fraction).sum_to_size(value.shape) for value in values]

        return _Rule.apply(output, back, self._step(name, "by share"), *parts)  # pyright: ignore[reportReturnType]

    def _product(self, name: str, a: Any, b: Any) -> Tensor:
        tensors = [value for value in (a, b) if isinstance(value, Tensor) and value.requires_grad]
        left = a.detach() if isinstance(a, Tensor) else a
        right = b.detach() if isinstance(b, Tensor) else b
        output = left / right if "div" in name else left * right
        count = len(tensors)
        step = self._step(name, "passes" if count == 1 else "halves")
        return _Rule.apply(output, lambda r: [(r / count).sum_to_size(t.shape) for t in tensors], step, *tensors)  # pyright: ignore[reportReturnType]

    def _mix(self, func: Any, name: str, args: Any, kwargs: Any) -> Tensor:
        return self._by_share(name, lambda source: func(source, *args[1:], **kwargs), args[0])

    def _pass(self, func: Any, name: str, args: Any, kwargs: Any) -> Tensor:
        if kwargs.get("inplace"):
            kwargs = {**kwargs, "inplace": False}
        name_of_copy = name.removesuffix("_")
        with torch.no_grad():
            output = (
                getattr(F, name_of_copy)(args[0].detach(), *args[1:], **kwargs)
                if name != name_of_copy
                else func(args[0].detach(), *args[1:], **kwargs)
            )
        return _Rule.apply(output, lambda relevance: [relevance], self._step(name, "passes"), args[0])  # pyright: ignore[reportReturnType]

    def _unknown(self, func: Any, name: str, args: Any, output: Any) -> Any:
        x = args[0] if args else None
        one = sum(isinstance(value, Tensor) and value.requires_grad for value in args) == 1
        if isinstance(x, Tensor) and isinstance(output, Tensor) and one and x.shape == output.shape:
            warnings.warn(f"relevance: {name} has no rule; it passes relevance on", stacklevel=4)
            return _Rule.apply(output.detach(), lambda relevance: [relevance], self._step(name, "passes (no rule)"), x)
        where = self.stack[-1] if self.stack else "the model"
        raise ValueError(f"relevance has no rule for {resolve_name(func) or name} in {where}")


def _needs_rule(args: Any, kwargs: Any) -> bool:
    if not torch.is_grad_enabled():
        return False
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor) and value.requires_grad:
            return True
        if isinstance(value, (tuple, list)) and any(isinstance(v, Tensor) and v.requires_grad for v in value):
            return True
    return False


def _carries_gradient(output: Any) -> bool:
    if isinstance(output, Tensor):
        return output.requires_grad
    return isinstance(output, (tuple, list)) and any(isinstance(v, Tensor) and v.requires_grad for v in output)
