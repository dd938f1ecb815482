"""Routed attention: each query block names the key blocks it may see; exact softmax over their union.

`attention` is the routine, `routes` what a query may see. `tiles` (with `plan` and `tile`) computes it in plain torch, `triton` (with
`lists` and `core_attention.routed.triton_kernels`) on CUDA, `flex` by FlexAttention; `ops` hides them from `torch.compile`.
"""
