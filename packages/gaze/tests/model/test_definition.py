"""The published interface against a plain definition with torch's own layers, at other shapes and options than the recorded cases have."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gaze.model.declaration import system

MODEL = system.components["Seq2SeqTransformer"]
METRICS = system.components["scanpath_metrics"]
TABLE = system.components["positionalEncodingLearned"]

PLAIN = {"n_objects": 6, "rows": 2, "cols": 3, "pe_rows": 11, "pe_dim": 9, "emb_size": 48, "nhead": 4, "ffn": 40, "enc_layers": 1,
         "dec_layers": 1, "ca_heads": 2, "ca_dk": 48, "spp": 2, "batch": 2, "img_hw": [36, 30], "lens": [5, 3], "max_len": 12,
         "functionChoice": "learned", "CA_version": 3, "dropout_at_eval": "off"}  # fmt: skip
OTHERS = {
    "three pyramid levels, three heads": {"spp": 3, "ca_heads": 3, "nhead": 2, "img_hw": [64, 81]},
    "four pyramid levels, more bins than pixels": {"spp": 4, "img_hw": [30, 45]},
    "max pooling of the published crops": {"spp": 0, "img_hw": [150, 93]},
    "one pointer head, narrower than a token": {"ca_heads": 1, "ca_dk": 20},
    "pointer wider than a token, deep decoder": {"ca_heads": 4, "ca_dk": 96, "enc_layers": 3, "dec_layers": 4},
    "a grid that is not full": {"rows": 3, "cols": 4, "n_objects": 10, "lens": [9, 1]},
    "one row": {"rows": 1, "cols": 9, "n_objects": 9, "pe_rows": 14, "batch": 3, "lens": [2, 7, 4]},
    "one column, rows up to the zeros below the table": {"rows": 9, "cols": 1, "n_objects": 9, "pe_rows": 9, "lens": [2, 7]},
    "a flag of which little is left": {"pe_dim": 11, "emb_size": 48},
    "a table wider than needed": {"pe_dim": 14, "emb_size": 64},
    "a width that four does not divide": {"emb_size": 42, "pe_dim": 7, "nhead": 3, "ca_dk": 42},
    "one object": {"rows": 1, "cols": 1, "n_objects": 1, "lens": [3, 2]},
    "one path of one fixation": {"batch": 1, "lens": [1]},
}  # fmt: skip


class PlainOAT(nn.Module):
    """The specification step by step, one token at a time, under the published names."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        width, half = config["emb_size"], config["emb_size"] // 2
        layer = {"dropout": 0.0, "dim_feedforward": config["ffn"]}
        encoder, decoder = (
            kind(width, config["nhead"], **layer) for kind in (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)
        )
        self.transformer_encoder = nn.TransformerEncoder(encoder, config["enc_layers"], enable_nested_tensor=False)
        self.transformer_decoder = nn.TransformerDecoder(decoder, config["dec_layers"])
        self.generator, self.LinearEmbedding = nn.Linear(width, config["n_objects"] + 2), nn.Linear(3, half)
        cnn = self.cnn_embedding = nn.Module()
        cnn.cnn1, cnn.cnn2 = nn.Sequential(nn.Conv2d(3, 16, 5)), nn.Sequential(nn.Conv2d(16, 32, 3))
        height, across = (((size - 4) // 5 - 2) // 3 for size in config["img_hw"])
        features = 32 * sum(4**level for level in range(config["spp"])) or 32 * height * across
        cnn.fc = nn.Linear(features, half)
        self.cross_attentions = nn.ModuleList()
        for _ in range(config["ca_heads"]):
            head = nn.Module()
            head.decode_fc, head.encode_fc = nn.Linear(width, config["ca_dk"]), nn.Linear(width, config["ca_dk"])
            self.cross_attentions.append(head)
        self.readout = nn.Linear(config["ca_heads"], 1)

    def look(self, image):
        """One crop (height, width, 3) to its vector."""
        maps = F.max_pool2d(F.relu(self.cnn_embedding.cnn1(image.permute(2, 0, 1)[None])), 5)
        maps = F.relu(self.cnn_embedding.cnn2(maps))[0]
        if not self.config["spp"]:
            return self.cnn_embedding.fc(F.max_pool2d(maps, 3).flatten())
        features = []
        for level in range(self.config["spp"]):
            bins = 2**level
            size = [math.ceil(extent / bins) for extent in maps.shape[1:]]
            missing = [bins * part - extent for part, extent in zip(size, maps.shape[1:], strict=True)]
            before = [count // 2 for count in missing]
            grid = torch.zeros(32, bins * size[0], bins * size[1])
            grid[:, before[0] : before[0] + maps.shape[1], before[1] : before[1] + maps.shape[2]] = maps
            boxes = grid.reshape(32, bins, size[0], bins, size[1])
            features.append(boxes.amax((2, 4)).flatten())
        return self.cnn_embedding.fc(torch.cat(features))

    def place(self, table, row, column, flag):
        rows = [
            table[index] if index < len(table) else torch.zeros(table.shape[1])
            for index in map(int, (row, column, flag))
        ]
        return torch.cat(rows)[: self.config["emb_size"] // 2]

    def forward(self, images, table, target, sequence):
        """Of one scene: logits (steps, N + 2), encoder output and input."""
        count, columns = self.config["n_objects"], self.config["cols"]
        white = torch.ones_like(images[0])
        source = [
            torch.cat([self.look(images[n]), self.place(table, n // columns, n % columns, 0)]) for n in range(count)
        ]
        where = self.place(table, target // columns, target % columns, 1)
        source = torch.stack([*source, torch.cat([self.look(images[target]), where])])
        steps = []
        for time, index in enumerate(sequence):
            row, column = index // columns, index % columns
            if index == count + 2:
                row, column = self.config["rows"] / 2, columns / 2
            look = self.look(images[index] if index < count else white)
            token = torch.cat([look, self.place(table, row, column, index == target)])
            rate = 10_000 ** (-torch.arange(0, len(token), 2) / len(token))
            token = token + torch.stack([torch.sin(time * rate), torch.cos(time * rate)], 1).flatten()
            steps.append(token)
        encoded = self.transformer_encoder(source[:, None])
        causal = nn.Transformer.generate_square_subsequent_mask(len(steps))
        decoded = self.transformer_decoder(torch.stack(steps)[:, None], encoded, tgt_mask=causal)
        scores = []
        for head in self.cross_attentions:
            score = head.decode_fc(decoded[:, 0]) @ head.encode_fc(encoded[:, 0]).T
            scores.append(F.pad(score, (0, 1)) / math.sqrt(self.config["ca_dk"]))
        logits = scores[0] if len(scores) == 1 else self.readout(torch.stack(scores, -1))[..., 0]
        return logits, source, encoded[:, 0]

    def greedy(self, images, table, target):
        path, stop = [], self.config["n_objects"]
        while len(path) < self.config["max_len"]:
            last = self(images, table, target, [stop + 2, *path])[0][-1]
            choice = int(last[: stop if not path else stop + 1].argmax())
            if choice == stop:
                break
            path.append(choice)
        return path


@pytest.mark.parametrize("options", OTHERS.values(), ids=OTHERS.keys())
def test_the_model_is_its_definition(options):
    config = PLAIN | options
    torch.manual_seed(len(str(options)))
    plain = PlainOAT(config)
    for parameter in plain.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    count, scenes = config["n_objects"], config["batch"]
    images = torch.rand(scenes, count, *config["img_hw"], 3)
    table = torch.randn(config["pe_rows"], config["pe_dim"])
    target = torch.randint(count, (scenes,))
    paths = [torch.randint(count, (length,)).tolist() for length in config["lens"]]
    longest = max(config["lens"])
    padded = [[count + 2, *path, count, *[count + 1] * (longest - len(path))] for path in paths]
    inputs = {"object_images": images, "pe_table": table, "target_index": target, "tgt_pos": torch.tensor(padded).T}
    state = {f"model.{name}": value.clone() for name, value in plain.state_dict().items()}
    module = MODEL.load(config, {**state, "pe_table": table}).eval()
    outputs = MODEL.run(module, inputs, config=config, mode="eval")
    losses = []
    for scene in range(scenes):
        labels = torch.tensor([*paths[scene], count])
        logits, source, encoded = plain(images[scene], table, int(target[scene]), [count + 2, *paths[scene]])
        close = {"atol": 2e-4, "rtol": 1e-3}
        torch.testing.assert_close(outputs["encoder_in"][:, scene], source, **close)
        torch.testing.assert_close(outputs["encoder_out"][:, scene], encoded, **close)
        torch.testing.assert_close(outputs["logits"][: len(labels), scene], logits, **close)
        losses.append(F.cross_entropy(logits, labels, reduction="none"))
        assert outputs[f"greedy_{scene}"].tolist() == plain.greedy(images[scene], table, int(target[scene]))
    torch.testing.assert_close(outputs["loss"][0], torch.cat(losses).mean(), atol=2e-4, rtol=1e-3)
    # gradients of the loss reach the shared weights alike
    torch.cat(losses).mean().backward()
    outputs["loss"].backward()
    for ours, theirs in ((module.appearance.first.weight, plain.cnn_embedding.cnn1[0].weight),
                         (module.pointer.steps[0].weight, plain.cross_attentions[0].decode_fc.weight)):  # fmt: skip
        torch.testing.assert_close(ours.grad, theirs.grad, atol=2e-4, rtol=2e-3)


@pytest.mark.parametrize(
    ("rows", "width", "sigma", "lr", "steps"),
    [(11, 86, 1.5, 0.01, 3), (14, 86, 2.5, 0.05, 7), (5, 3, 2.0, 0.01, 1), (2, 8, 1.0, 0.1, 12)],
)
def test_the_table_s_loss_and_steps_are_their_definition(rows, width, sigma, lr, steps):
    start = torch.randn(rows, width, generator=torch.Generator().manual_seed(rows))
    config = {"rows": rows, "dim": width, "sigma": sigma, "lr": lr, "steps": steps, "optimizer": "Adam"}
    outputs = TABLE.run(None, {"W0": start}, config=config, mode="train")

    def loss_of(table):
        norms = [row.norm() for row in table]
        mean = sum(norms) / rows
        total = sum((norm - mean) ** 2 for norm in norms) / rows
        for i in range(rows):
            for j in range(rows):
                cosine = table[i] @ table[j] / (norms[i] * norms[j])
                total = total + (cosine - math.exp(-((i - j) ** 2) / (2 * sigma**2))) ** 2
        return total / (rows * (rows - 1))

    table = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([table], lr=lr)
    losses = []
    for step in range(steps):
        optimizer.zero_grad()
        loss = loss_of(table)
        loss.backward()
        if step == 0:
            torch.testing.assert_close(outputs["grad0"], table.grad, atol=1e-5, rtol=1e-4)
        losses.append(loss.item())
        optimizer.step()
    assert outputs["loss0"].item() == pytest.approx(losses[0], rel=1e-4)
    assert outputs["loss_last"].item() == pytest.approx(losses[-1], rel=1e-3)
    torch.testing.assert_close(outputs["W"], table.detach(), atol=2e-4, rtol=2e-3)


@pytest.mark.parametrize(
    ("rows", "columns", "screen", "cell", "bar"),
    [(2, 11, (1680, 1050), (449, 152), 152), (6, 14, (2560, 1600), (267, 183), 0), (4, 4, (800, 601), (150, 199), 3)],
)
def test_measures_at_other_grids_are_their_definitions(rows, columns, screen, cell, bar):
    rng = np.random.default_rng(rows)
    count, trials, longest = rows * columns, 25, 9
    paths = [[rng.integers(0, count, rng.integers(1, longest + 1)).tolist() for _ in range(trials)] for _ in range(2)]
    padded = [torch.tensor([path + [-1] * (longest - len(path)) for path in side]) for side in paths]
    target = rng.integers(0, count, trials)
    config = {"rows": rows, "cols": columns, "screen": list(screen), "cell_hw": list(cell), "title_bar": bar}
    inputs = {"gt": padded[0], "pred": padded[1], "target": torch.tensor(target)}
    outputs = METRICS.run(None, inputs, config=config, mode="eval")
    for trial, (human, model) in enumerate(zip(*paths, strict=True)):
        visited, kinds = [], {"search": 0, "refix": 0, "revisit": 0}
        for step, item in enumerate(model):
            kind = "refix" if step and item == model[step - 1] else "revisit" if item in visited else "search"
            kinds[kind] += 1
            visited.append(item)
        for kind, number in kinds.items():
            assert outputs[kind][trial].item() == pytest.approx(number / len(model))
        assert outputs["correct"][trial] == (model[-1] == target[trial])
        assert outputs["length_gt"][trial] == len(human)
        centres = [
            [(i % columns * cell[1] + cell[1] / 2, bar + i // columns * cell[0] + cell[0] / 2) for i in path]
            for path in (human, model)
        ]
        seen = np.zeros(screen)
        for x, y in np.round(centres[1]).astype(int):
            if 0 <= x < screen[0] and 0 <= y < screen[1]:
                seen[x, y] = 1
        places = {(int(np.round(x)), int(np.round(y))) for x, y in centres[0]}
        places = [place for place in places if 0 <= place[0] < screen[0] and 0 <= place[1] < screen[1]]
        expected = np.mean([(seen[place] - seen.mean()) / seen.std() for place in places])
        assert outputs["nss"][trial].item() == pytest.approx(expected, rel=1e-6)
    means = outputs["means"] - outputs["means_gt"]
    known = outputs["means_gt"] != 0
    expected = (means[known].abs() / outputs["means_gt"][known]).mean()
    assert outputs["delta"].item() == pytest.approx(expected.item())


def test_other_options_are_refused_by_name():
    for option in ({"functionChoice": "sinusoid"}, {"CA_version": 1}):
        with pytest.raises(ValueError, match=str(next(iter(option.values())))):
            MODEL.load(PLAIN | option, {})
    with pytest.raises(ValueError, match="SGD"):
        TABLE.run(
            None,
            {"W0": torch.randn(3, 4)},
            config={"sigma": 2.0, "steps": 1, "lr": 0.01, "optimizer": "SGD"},
            mode="train",
        )
