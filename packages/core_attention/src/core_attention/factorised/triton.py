"""Triton kernels of attention over a grid with a factorised bias (`core_attention.factorised.attention`), forward and backward.

A program holds queries of one grid row and walks over key rows, each in blocks of columns: its row bias is then one number per query and its
column bias the same tile for every key row. Key rows without a content term skip the product with the keys. The backward pass is two
kernels: one owns queries (gradients of q and of both biases), one owns keys (gradients of k and v); nothing is added atomically.
"""

# pyright: reportArgumentType=false
# (a launcher passes plain numbers where the kernel's signature says tl.constexpr)

import torch
import triton
import triton.language as tl
from torch import Tensor

from core_attention.parts.first_order import first_order

BLOCK = 64  # queries, and keys, of a tile


def unusable(q: Tensor, dropout: float) -> str:
    """Why the kernels cannot take this; empty if they can."""
    if not (q.is_cuda or triton.knobs.runtime.interpret):  # pyright: ignore[reportAttributeAccessIssue]
        return f"Triton kernels need a CUDA tensor, q is on {q.device.type}"
    if q.dtype == torch.float64:
        return "Triton kernels run in float32, float16 and bfloat16, q is float64"
    if q.shape[-1] > 256:
        return f"Triton kernels take heads of up to 256 channels, q has {q.shape[-1]}"
    if dropout:
        return "Triton kernels have no element-wise dropout; structured dropout is done on the values"
    return ""


@triton.jit
def _first_near(row, key_rows, end, WINDOW: tl.constexpr, FULL_LAST: tl.constexpr, CONTENT: tl.constexpr):
    near = end
    if CONTENT:
        near = 0
        if WINDOW >= 0:
            near = tl.maximum(0, row - WINDOW)
            if FULL_LAST:
                near = tl.where(row == key_rows - 1, 0, near)
    return near


@triton.jit
def _scores(qt, k, f, g, base, tp, tp_near, at_n, at_d, columns, scale, in_n, in_d, dim: tl.constexpr):
    """f(t′) + g(c′), and the content product for near key rows."""
    s = f[:, None] + g
    if tp >= tp_near:
        kt = tl.load(
            k + (base + tp * columns + at_n)[None, :] * dim + at_d[:, None],
            mask=in_n[None, :] & in_d[:, None],
            other=0.0,
        )
        s += tl.dot(qt, kt, input_precision="ieee") * scale
    return tl.where(in_n[None, :], s, float("-inf"))


@triton.jit
def _forward_kernel(
    q, k, v, rows, cols, out, lse, scale, query_rows, key_rows, columns, heads, group,
    dim: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr, FULL_LAST: tl.constexpr, CONTENT: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(columns, BLOCK_M)
    t, head = tl.program_id(0) // blocks, tl.program_id(1).to(tl.int64)
    at_m = (tl.program_id(0) % blocks) * BLOCK_M + tl.arange(0, BLOCK_M)
    at_d = tl.arange(0, BLOCK_D)
    in_m, in_d = at_m < columns, at_d < dim
    query = (head * query_rows + t) * columns + at_m  # row of q
    qt = tl.load(q + query[:, None] * dim + at_d[None, :], mask=in_m[:, None] & in_d[None, :], other=0.0)
    row = t + key_rows - query_rows
    end = row + 1 if CAUSAL else key_rows
    near = _first_near(row, key_rows, end, WINDOW, FULL_LAST, CONTENT)
    # `head` counts samples · heads; its keys begin at sample · kv_heads + kv_head
    base = (head // heads * (heads // group) + head % heads // group) * key_rows * columns
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    for n in range(0, columns, BLOCK_N):
        at_n = n + tl.arange(0, BLOCK_N)
        in_n = at_n < columns
        g = tl.load(cols + query[:, None] * columns + at_n[None, :], mask=in_m[:, None] & in_n[None, :], other=0.0)
        for tp in range(0, end):
            f = tl.load(rows + query * key_rows + tp, mask=in_m, other=0.0)
            s = _scores(qt, k, f, g, base, tp, near, at_n, at_d, columns, scale, in_n, in_d, dim)
            # online softmax: what was summed so far shrinks by the growth of the maximum
            higher = tl.maximum(top, tl.max(s, 1))
            shift = tl.where(higher == float("-inf"), 0.0, higher)
            p = tl.exp(s - shift[:, None])
            shrink = tl.exp(top - shift)
            vt = tl.load(
                v + (base + tp * columns + at_n)[:, None] * dim + at_d[None, :],
                mask=in_n[:, None] & in_d[None, :],
                other=0.0,
            )
            total = total * shrink + tl.sum(p, 1)
            acc = acc * shrink[:, None] + tl.dot(p.to(vt.dtype), vt, input_precision="ieee")
            top = higher
    tl.store(out + query[:, None] * dim + at_d[None, :], acc / total[:, None], mask=in_m[:, None] & in_d[None, :])
    tl.store(lse + query, top + tl.log(total), mask=in_m)


@triton.jit
def _query_kernel(
    q, k, v, rows, cols, grad, lse, delta, dq, d_rows, d_cols, scale, query_rows, key_rows, columns, heads, group,
    dim: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr, FULL_LAST: tl.constexpr, CONTENT: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(columns, BLOCK_M)
    t, head = tl.program_id(0) // blocks, tl.program_id(1).to(tl.int64)
    at_m = (tl.program_id(0) % blocks) * BLOCK_M + tl.arange(0, BLOCK_M)
    at_d = tl.arange(0, BLOCK_D)
    in_m, in_d = at_m < columns, at_d < dim
    query = (head * query_rows + t) * columns + at_m
    inside = in_m[:, None] & in_d[None, :]
    qt = tl.load(q + query[:, None] * dim + at_d[None, :], mask=inside, other=0.0)
    dy = tl.load(grad + query[:, None] * dim + at_d[None, :], mask=inside, other=0.0)
    norm = tl.load(lse + query, mask=in_m, other=0.0)
    mean = tl.load(delta + query, mask=in_m, other=0.0)
    row = t + key_rows - query_rows
    end = row + 1 if CAUSAL else key_rows
    near = _first_near(row, key_rows, end, WINDOW, FULL_LAST, CONTENT)
    base = (head // heads * (heads // group) + head % heads // group) * key_rows * columns
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    for n in range(0, columns, BLOCK_N):
        at_n = n + tl.arange(0, BLOCK_N)
        in_n = at_n < columns
        g = tl.load(cols + query[:, None] * columns + at_n[None, :], mask=in_m[:, None] & in_n[None, :], other=0.0)
        dg = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        for tp in range(0, end):
            f = tl.load(rows + query * key_rows + tp, mask=in_m, other=0.0)
            s = _scores(qt, k, f, g, base, tp, near, at_n, at_d, columns, scale, in_n, in_d, dim)
            p = tl.exp(s - norm[:, None])
            vt = tl.load(
                v + (base + tp * columns + at_n)[None, :] * dim + at_d[:, None],
                mask=in_n[None, :] & in_d[:, None],
                other=0.0,
            )
            ds = p * (tl.dot(dy, vt, input_precision="ieee") - mean[:, None])  # softmax backward; mean = dy·y
            dg += ds
            before = tl.load(d_rows + query * key_rows + tp, mask=in_m, other=0.0)  # this program's own
            tl.store(d_rows + query * key_rows + tp, before + tl.sum(ds, 1), mask=in_m)
            if tp >= near:
                kt = tl.load(
                    k + (base + tp * columns + at_n)[:, None] * dim + at_d[None, :],
                    mask=in_n[:, None] & in_d[None, :],
                    other=0.0,
                )
                acc += tl.dot(ds.to(kt.dtype), kt, input_precision="ieee") * scale
        tl.debug_barrier()  # the next block of columns reads the row gradients that this one wrote
        tl.store(d_cols + query[:, None] * columns + at_n[None, :], dg, mask=in_m[:, None] & in_n[None, :])
    tl.store(dq + query[:, None] * dim + at_d[None, :], acc, mask=inside)


@triton.jit
def _key_kernel(
    q, k, v, rows, cols, grad, lse, delta, dk, dv, scale, query_rows, key_rows, columns, heads, group,
    dim: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr, FULL_LAST: tl.constexpr, CONTENT: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(columns, BLOCK_N)
    tp, kv_head = tl.program_id(0) // blocks, tl.program_id(1).to(tl.int64)
    at_n = (tl.program_id(0) % blocks) * BLOCK_N + tl.arange(0, BLOCK_N)
    at_d = tl.arange(0, BLOCK_D)
    in_n, in_d = at_n < columns, at_d < dim
    kv_heads = heads // group
    key = (kv_head * key_rows + tp) * columns + at_n
    inside = in_n[:, None] & in_d[None, :]
    kt = tl.load(k + key[:, None] * dim + at_d[None, :], mask=inside, other=0.0)
    vt = tl.load(v + key[:, None] * dim + at_d[None, :], mask=inside, other=0.0)
    dk_acc = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    dv_acc = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    first = tl.maximum(0, tp - (key_rows - query_rows)) if CAUSAL else 0  # earlier query rows do not see this key row
    for t in range(first, query_rows):
        row = t + key_rows - query_rows
        near = _first_near(row, key_rows, row + 1 if CAUSAL else key_rows, WINDOW, FULL_LAST, CONTENT)
        for member in range(0, group):
            head = kv_head // kv_heads * heads + kv_head % kv_heads * group + member
            for m in range(0, columns, BLOCK_M):
                at_m = m + tl.arange(0, BLOCK_M)
                in_m = at_m < columns
                query = (head * query_rows + t) * columns + at_m
                loaded = in_m[:, None] & in_d[None, :]
                qt = tl.load(q + query[:, None] * dim + at_d[None, :], mask=loaded, other=0.0)
                dy = tl.load(grad + query[:, None] * dim + at_d[None, :], mask=loaded, other=0.0)
                f = tl.load(rows + query * key_rows + tp, mask=in_m, other=0.0)
                g = tl.load(
                    cols + query[:, None] * columns + at_n[None, :], mask=in_m[:, None] & in_n[None, :], other=0.0
                )
                s = f[:, None] + g
                if tp >= near:
                    s += tl.dot(qt, tl.trans(kt), input_precision="ieee") * scale
                s = tl.where(in_m[:, None] & in_n[None, :], s, float("-inf"))
                p = tl.exp(s - tl.load(lse + query, mask=in_m, other=0.0)[:, None])
                dv_acc += tl.dot(tl.trans(p).to(dy.dtype), dy, input_precision="ieee")
                if tp >= near:
                    mean = tl.load(delta + query, mask=in_m, other=0.0)
                    ds = p * (tl.dot(dy, tl.trans(vt), input_precision="ieee") - mean[:, None])
                    dk_acc += tl.dot(tl.trans(ds).to(qt.dtype), qt, input_precision="ieee") * scale
    tl.store(dk + key[:, None] * dim + at_d[None, :], dk_acc, mask=inside)
    tl.store(dv + key[:, None] * dim + at_d[None, :], dv_acc, mask=inside)


class _Factorised(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, rows, cols, scale, causal, window, full_last, content):  # pyright: ignore[reportIncompatibleMethodOverride]
        q, k, v, rows, cols = (t.contiguous() for t in (q, k, v, rows, cols))
        batch, heads, query_rows, columns, dim = q.shape
        key_rows, group = k.shape[2], heads // k.shape[1]
        block = max(16, min(BLOCK, triton.next_power_of_2(columns)))
        settings = {
            "dim": dim, "CAUSAL": causal, "WINDOW": window, "FULL_LAST": full_last, "CONTENT": content,
            "BLOCK_M": block, "BLOCK_N": block, "BLOCK_D": max(16, triton.next_power_of_2(dim)),
        }  # fmt: skip
        sizes = (scale, query_rows, key_rows, columns, heads, group)
        out, lse = torch.empty_like(q), q.new_empty(q.shape[:-1], dtype=torch.float32)
        grid = (query_rows * triton.cdiv(columns, block), batch * heads)
        _forward_kernel[grid](q, k, v, rows, cols, out, lse, *sizes, **settings)
        ctx.save_for_backward(q, k, v, rows, cols, out, lse)
        ctx.call = sizes, settings, grid
        return out

    @staticmethod
    @first_order
    def backward(ctx, grad):  # pyright: ignore[reportIncompatibleMethodOverride]
        q, k, v, rows, cols, out, lse = ctx.saved_tensors
        sizes, settings, grid = ctx.call
        grad = grad.contiguous()
        delta = (grad.float() * out.float()).sum(-1)  # Σ p · (dy·v) of a query is dy·y
        dq, dk, dv = (torch.empty_like(t) for t in (q, k, v))
        d_rows, d_cols = torch.zeros_like(rows), torch.empty_like(cols)  # the kernel adds to d_rows
        _query_kernel[grid](q, k, v, rows, cols, grad, lse, delta, dq, d_rows, d_cols, *sizes, **settings)
        keys = (k.shape[2] * triton.cdiv(k.shape[3], settings["BLOCK_N"]), k.shape[0] * k.shape[1])
        _key_kernel[keys](q, k, v, rows, cols, grad, lse, delta, dk, dv, *sizes, **settings)
        return dq, dk, dv, d_rows, d_cols, None, None, None, None, None


def factorised(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rows: Tensor,
    cols: Tensor,
    *,
    scale: float,
    causal: bool,
    window: int,
    full_last: bool,
    content: bool,
) -> Tensor:
    """softmax(scale q·k [near] + rows + cols) v.

    Args:
        q: (batch, heads, rows, columns, dim), the content bias already added.
        k, v: (batch, kv_heads, key_rows, columns, dim).
        rows, cols: the biases, scaled, float32, (batch, heads, rows, columns, key_rows) and (…, key columns); −inf in `cols` hides.
        scale, causal, window, full_last, content: as in `core_attention.factorised.attention.Reach`; a window below 0 is none.
    """
    return _Factorised.apply(q, k, v, rows, cols, scale, causal, window, full_last, content)  # pyright: ignore[reportReturnType]
