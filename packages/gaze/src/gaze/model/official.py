"""OAT under its published names: golden cases, and state dicts of the published code."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from core_attention.systems import Component, Config, StateDict
from gaze.metrics.behaviour import BEHAVIOUR, behaviour_of, delta
from gaze.metrics.maps import nss
from gaze.metrics.multimatch import multimatch
from gaze.metrics.sequences import edit_distance, sequence_score
from gaze.model.decoding import decode_greedily
from gaze.model.oat import OAT, OATConfig, grid_specials, sequence_loss
from gaze.model.positions import optimise_table, table_loss
from gaze.scenes.grids import grid_centres

PREFIX = "model."  # of Lightning checkpoints


def model_config(config: Config) -> OATConfig:
    """Ours from the published constructor arguments.

    Raises:
        ValueError: another position function or object attention than the learned ones.
    """
    function, version = config.get("functionChoice", "learned"), config.get("CA_version", 3)
    if function != "learned" or version != 3:
        raise ValueError(f"functionChoice {function!r} with CA_version {version}: OAT is 'learned' with 3")
    crop = OATConfig.crop
    if "img_hw" in config:
        crop = tuple(config["img_hw"])
    return OATConfig(
        width=config.get("emb_size", 512),
        heads=config.get("nhead", 4),
        feedforward=config.get("ffn", 512),
        encoder_layers=config.get("enc_layers", 4),
        decoder_layers=config.get("dec_layers", 4),
        pointer_heads=config.get("ca_heads", 2),
        pointer_width=config.get("ca_dk", 512),
        pyramid=config.get("spp", 0),
        crop=crop,
        dropout=0.0 if config.get("dropout_at_eval") == "off" else config.get("dropout", 0.1),
        table_rows=config.get("pe_rows", 11),
        table_width=config.get("pe_dim", 86),
    )


def config_of(state: StateDict, table: Tensor, heads: int) -> dict[str, Any]:
    """The published constructor arguments, read from the shapes of a checkpoint; crops are as published where there is no pyramid.

    Raises:
        ValueError: it is not such a checkpoint, or its crops have another size than the published ones.
    """
    shapes = {name.removeprefix(PREFIX): tuple(tensor.shape) for name, tensor in state.items()}
    needed = ("cnn_embedding.fc.weight", "transformer_encoder.layers.0.linear1.weight", "readout.weight")
    missing = [name for name in needed if name not in shapes]
    if missing:
        raise ValueError(f"no tensor {missing[0]}")
    features = shapes["cnn_embedding.fc.weight"][1]
    pyramids = {1440: 0, 160: 2, 672: 3, 2720: 4}
    if features not in pyramids:
        raise ValueError(f"cnn_embedding.fc takes {features} features; known: {', '.join(map(str, pyramids))}")
    feedforward, width = shapes["transformer_encoder.layers.0.linear1.weight"]
    return {
        "emb_size": width,
        "nhead": heads,
        "ffn": feedforward,
        "enc_layers": sum(name.endswith("linear1.weight") and "_encoder." in name for name in shapes),
        "dec_layers": sum(name.endswith("linear1.weight") and "_decoder." in name for name in shapes),
        "ca_heads": shapes["readout.weight"][1],
        "ca_dk": shapes["cross_attentions.0.decode_fc.weight"][0],
        "spp": pyramids[features],
        "pe_rows": table.shape[0],
        "pe_dim": table.shape[1],
    }


def _build(config: Config) -> nn.Module:
    return OAT(model_config(config))


_RENAMED = (
    ("transformer_encoder.layers.", "encoder."),
    ("transformer_decoder.layers.", "decoder."),
    ("cnn_embedding.cnn1.0.", "appearance.first."),
    ("cnn_embedding.cnn2.0.", "appearance.second."),
    ("cnn_embedding.fc.", "appearance.project."),
    ("readout.", "pointer.combine."),
    (".self_attn.in_proj_", ".self_attention.project."),
    (".self_attn.out_proj.", ".self_attention.output."),
    (".multihead_attn.in_proj_", ".cross_attention.project."),
    (".multihead_attn.out_proj.", ".cross_attention.output."),
    (".linear1.", ".expand."),
    (".linear2.", ".contract."),
    (".norm1.", ".norms.0."),
    (".norm2.", ".norms.1."),
    (".norm3.", ".norms.2."),
)


def convert(official: StateDict, config: Config) -> dict[str, Tensor]:
    """Our state dict; takes what it uses out of `official`. Keys may carry the prefix of Lightning checkpoints.

    The position table is not in published checkpoints: a file beside them holds it, to be added as ``pe_table``.
    """
    ours = {}
    for name in list(official):
        key = name.removeprefix(PREFIX)
        if key == "pe_table":
            ours["table"] = official.pop(name)
            continue
        if key.startswith("cross_attentions."):
            _, head, part, kind = key.split(".")
            side = {"decode_fc": "steps", "encode_fc": "objects"}[part]
            ours[f"pointer.{side}.{head}.{kind}"] = official.pop(name)
            continue
        new = key
        for before, after in _RENAMED:
            new = new.replace(before, after)
        if new != key:
            ours[new] = official.pop(name)
    if "table" not in ours:
        ours["table"] = torch.zeros(config.get("pe_rows", 11), config.get("pe_dim", 86))
    return ours


def _run_model(module: Any, inputs: Mapping[str, Any], *, config: Config, mode: str) -> dict[str, Any]:
    model: OAT = module
    rows, columns, count = config["rows"], config["cols"], config["n_objects"]
    images, target = inputs["object_images"], inputs["target_index"]
    model.set_table(inputs["pe_table"])
    scenes = len(images)
    index = torch.arange(count)
    places = torch.stack([index // columns, index % columns], -1).to(images.dtype).expand(scenes, -1, -1)
    specials = grid_specials(rows, columns, count).to(images.dtype).expand(scenes, -1, -1)
    tokens = model.embed(images.permute(0, 1, 4, 2, 3), places, target, specials=specials.floor())

    sequence = inputs["tgt_pos"].T
    steps, following = sequence[:, :-1], sequence[:, 1:]
    encoded = model.encode(tokens)
    decoder_in = model.step_tokens(tokens, steps)
    decoded = model.decode(encoded, decoder_in, step_mask=steps != count + 1)
    logits = model.point(encoded, decoded)

    # rows, columns and flags as the published collator has them, tokens first
    target_place = places.gather(1, target[:, None, None].expand(-1, 1, 2))
    source_triplet = torch.cat([places, target_place], 1)
    source_flag = torch.zeros(scenes, count + 1, 1, dtype=images.dtype)
    source_flag[:, count] = 1
    step_places = torch.cat([places, specials], 1).gather(1, steps[..., None].expand(-1, -1, 2))
    step_flag = (steps == target[:, None])[..., None].to(images.dtype)
    outputs = {
        "src_triplet": torch.cat([source_triplet, source_flag], -1).transpose(0, 1),
        "tgt_triplet": torch.cat([step_places, step_flag], -1).transpose(0, 1),
        "encoder_in": tokens.source.transpose(0, 1),
        "encoder_out": model.encode_scene(tokens).transpose(0, 1),
        "decoder_in": decoder_in.transpose(0, 1),
        "decoder_out": decoded.transpose(0, 1),
        "logits": logits.transpose(0, 1),
        "loss": sequence_loss(logits, following, padding=count + 1).reshape(1),
    }
    for i, paths in enumerate(decode_greedily(model, tokens, steps=config["max_len"])):
        outputs[f"greedy_{i}"] = torch.tensor(paths[0].objects, dtype=torch.int64)
    return outputs


def _run_table(module: None, inputs: Mapping[str, Any], *, config: Config, mode: str) -> dict[str, Any]:
    if config.get("optimizer", "Adam") != "Adam":
        raise ValueError(f"optimizer {config['optimizer']!r}: the table is optimised with Adam")
    start = inputs["W0"].detach().requires_grad_()
    with torch.enable_grad():
        loss = table_loss(start, config["sigma"])
        (gradient,) = torch.autograd.grad(loss, start)
    table, last = optimise_table(start, sigma=config["sigma"], steps=config["steps"], lr=config["lr"])
    return {"loss0": loss.detach().reshape(1), "grad0": gradient, "W": table, "loss_last": torch.tensor([last])}


def _run_metrics(module: None, inputs: Mapping[str, Any], *, config: Config, mode: str) -> dict[str, Any]:
    human = [row[row >= 0].tolist() for row in inputs["gt"]]
    predicted = [row[row >= 0].tolist() for row in inputs["pred"]]
    targets = inputs["target"].tolist()
    width, height = config["screen"]
    centres = grid_centres(config["rows"], config["cols"], tuple(config["cell_hw"]), top=config["title_bar"])
    of_people = [behaviour_of(path, target) for path, target in zip(human, targets, strict=True)]
    of_model = [behaviour_of(path, target) for path, target in zip(predicted, targets, strict=True)]
    outputs: dict[str, Any] = {}
    for name in BEHAVIOUR:
        outputs[name] = _column(getattr(behaviour, name) for behaviour in of_model)
        outputs[f"{name}_gt"] = _column(getattr(behaviour, name) for behaviour in of_people)
    outputs["means"] = torch.stack([outputs[name].mean() for name in BEHAVIOUR])
    outputs["means_gt"] = torch.stack([outputs[f"{name}_gt"].mean() for name in BEHAVIOUR])
    outputs["delta"] = torch.tensor([delta(of_model, of_people).value], dtype=torch.float64)
    pairs = list(zip(human, predicted, strict=True))
    outputs["levenshtein"] = _column(edit_distance(a, b) for a, b in pairs)
    outputs["sequence_score"] = _column(sequence_score(a, b) for a, b in pairs)
    outputs["nss"] = _column(nss(centres[b], centres[a], (width, height)) for a, b in pairs)
    similarities = [multimatch(centres[a], centres[b], (width, height), legacy_pad=True) for a, b in pairs]
    for name in ("vector", "direction", "length", "position"):
        outputs[f"mm_{name}"] = _column(getattr(similarity, name) for similarity in similarities)
    return outputs


def _column(values: Iterable[float]) -> Tensor:
    return torch.tensor(list(values), dtype=torch.float64)


components = {
    "Seq2SeqTransformer": Component(
        run=_run_model,
        build=_build,
        convert=convert,
        ignore=("*generator.*", "*LinearEmbedding.*", "*onedpositional_encoding.*"),
        unused=("pointer.combine.*",),
    ),
    "scanpath_metrics": Component(run=_run_metrics),
    "positionalEncodingLearned": Component(run=_run_table),
}
