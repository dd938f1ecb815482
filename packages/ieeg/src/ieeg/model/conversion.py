"""Conversion of checkpoint files and model folders between the three namings, and the check of a model folder."""

import json
from pathlib import Path
from typing import Any

import torch

from core_attention.checkpoints.folders import read_official
from core_attention.systems import StateDict, load_strictly
from core_runtime.errors import UserError, named
from core_runtime.folders import write_text, writing
from ieeg.model.folder import load_model, save_model
from ieeg.model.layouts import ConversionOptions, Layout
from ieeg.model.lora import merged
from ieeg.model.mvpformer import MVPFormer
from ieeg.model.naming import config_of, head_keys, joined, layout_of, to_layout, to_ours
from ieeg.model.published import RESEARCH_ONLY


def convert_checkpoint(source: Path, out: Path, conversion: ConversionOptions = ConversionOptions()) -> dict[str, Any]:
    """Converts between the namings, both ways.

    Args:
        source: a published file (torch or safetensors), a folder of the hub (``model.safetensors`` and ``config.json``), or a model
            folder of ours.
        out: model folder (ours, braindecode's) or file (official: ``.safetensors``, or ``.pt`` written by torch).

    Raises:
        UserError: not such a checkpoint, or `out` exists.
    """
    if out.exists():
        raise UserError(f"{out} is already there", "--out names another place")
    try:
        model, facts = _read(source, conversion)
        if conversion.ones_gain:
            torch.nn.init.ones_(model.encoder.ln.weight)
        if model.config.lora_rank and (conversion.merge or conversion.to == "braindecode"):
            model = merged(model)
        _write(model, out, conversion.to, facts)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(named(source, error)) from None
    config = model.config
    return {
        "model": str(out),
        "from": facts["layout"],
        "to": conversion.to,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "width": config.width,
        "layers": config.layers,
        "heads": config.heads,
        "kv_heads": config.kv_heads,
        "classes": config.classes,
        "lora_rank": config.lora_rank,
    }


# braindecode's names of sizes that the weights' shapes do not tell → ours
_BRAINDECODE_NAMES = {
    "segment_len": "segment",
    "n_heads": "heads",
    "n_head_kv": "kv_heads",
    "local_window": "window",
    "global_att": "content",
}


def _read(source: Path, conversion: ConversionOptions) -> tuple[MVPFormer, dict[str, Any]]:
    """The model in a checkpoint of any naming, and what a model folder stores beside it (layout, rate, window, provenance …)."""
    described, file = {}, source
    if source.is_dir():
        described, file = _config_json(source), source / "model.safetensors"
    if "preprocessing" in described:
        loaded = load_model(source)
        return loaded.network, {
            "layout": "ours",
            "rate": loaded.rate,
            "window": loaded.window,
            "threshold": loaded.threshold,
            "preparing": loaded.preparing,
            "provenance": loaded.provenance,
        }
    # published weights: only folders of ours have "preprocessing"
    state = read_official(file)
    known: dict[str, Any] = {"lora_alpha": conversion.lora_alpha}
    dim, base = conversion.head_width, conversion.base
    if base is not None:
        ours: StateDict = joined(to_ours(read_official(base)), head_keys(state))
        layout, made_from = "official", f"{base.name} and {source.name}"
    else:
        if layout_is_head(state):
            raise ValueError("this is a head file (LoRA and head alone): give the base file with --base")
        layout, made_from = layout_of(state), source.name
        ours = to_ours(state)
    if layout == "braindecode" and described:
        if described.get("pooling", "mean") != "mean":
            raise ValueError(
                "its head joins the channels (pooling='concat'), which ties it to one montage: not supported"
            )
        for theirs, our_name in _BRAINDECODE_NAMES.items():
            if described.get(theirs) is not None:
                known[our_name] = described[theirs]
        if "heads" in known:
            dim = ours["decoder.ln_f.weight"].shape[0] // known["heads"]
        if "segment" in known:  # the length tells the segment to `config_of`; the values are never used
            ours["seizure_embeddings"] = ours["encoder.ln.weight"].new_zeros(3, known["segment"])
    config = config_of(ours, dim=dim, **known)
    model = MVPFormer(config).to(ours["encoder.proj.weight"].dtype)
    load_strictly(model, ours)
    rate, window = 512.0, 25  # of the published files, which do not state them
    if described:
        for name in ("sfreq", "n_times"):
            value = described.get(name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e9:
                raise ValueError(f"{source}/config.json: {name} is {value!r}, not a number greater than 0")
        rate = float(described["sfreq"])
        window = max(1, round(described["n_times"] / config.segment))
    facts = {
        "layout": layout,
        "rate": rate,
        "window": min(window, config.positions),
        "provenance": {"converted_from": made_from},
    }
    return model.eval(), facts


def layout_is_head(state: StateDict) -> bool:
    """Whether a file holds only LoRA and a head."""
    has_encoder = any(key.endswith(("encoder.proj.weight", "patch_embed.proj.weight")) for key in state)
    return not has_encoder and any("lora_" in key for key in state)


def _config_json(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no config.json beside its weights")
    described = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(described, dict):
        return {}
    return described


def _write(model: MVPFormer, out: Path, to: Layout, facts: dict[str, Any]) -> None:
    if to == "ours":
        stored = {}
        for name in ("rate", "window", "threshold", "preparing", "provenance"):
            if facts.get(name) is not None:
                stored[name] = facts[name]
        save_model(model, out, **stored)
        return
    from safetensors.torch import save_file

    state = to_layout(model.state_dict(), to, buffers=True)
    state = {key: tensor.contiguous() for key, tensor in state.items()}  # safetensors stores no views
    if to == "official":
        with writing(out) as part:
            if out.suffix == ".safetensors":
                save_file(state, part)
            else:
                torch.save(state, part)
        return
    config = model.config
    described = {
        "n_outputs": config.classes or config.width,
        "n_chans": min(32, config.channels),
        "n_times": facts["window"] * config.segment,
        "sfreq": facts["rate"],
        "segment_len": config.segment,
        "d_model": config.width,
        "n_layers": config.layers,
        "n_heads": config.heads,
        "n_head_kv": config.kv_heads,
        "d_inner": config.inner,
        "local_window": config.window,
        "global_att": config.content,
        "max_segments": config.positions,
        "max_channels": config.channels,
    }
    with writing(out) as part:
        part.mkdir()
        save_file(state, part / "model.safetensors")
        write_text(part / "config.json", json.dumps(described, indent=1))


def check_model(folder: Path | str) -> dict[str, Any]:
    """Loads a model folder strictly and runs it once, on noise.

    Raises:
        UserError: it cannot be used.
    """
    loaded = load_model(folder)
    config = loaded.network.config
    with torch.inference_mode():
        # 50 µV, the amplitude of a real recording; few segments and channels, to be quick
        noise = 50 * torch.randn(1, min(3, config.positions), min(4, config.channels), config.segment)
        outputs = loaded.network(noise.to(loaded.network.head.weight.dtype))
    if not bool(outputs.isfinite().all()):
        raise UserError(
            f"{folder}: the model's outputs are not finite", "its weights are damaged: get or train it again"
        )
    provenance = loaded.provenance or {}
    return {
        "model": str(folder),
        "parameters": sum(parameter.numel() for parameter in loaded.network.parameters()),
        "task": "detect" if loaded.detects else "forecast",
        "width": config.width,
        "layers": config.layers,
        "rate": loaded.rate,
        "segment_seconds": loaded.segment_seconds,
        "window": loaded.window,
        "threshold": loaded.threshold,
        "made_from": provenance.get("converted_from") or provenance.get("trained_on"),
        "notice": RESEARCH_ONLY,
    }
