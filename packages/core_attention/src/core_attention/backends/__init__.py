"""The ways to compute `core_attention.attention`; each module has a `NAME`, `why_not(problem)` and `run(...)`."""
