"""MVPFormer: parameter counts, what depends on what, and that it learns (acceptance checks 3, 4, 8, 9, 11 of the specification)."""

import pytest
import torch

from ieeg.model.mvpformer import SIZES, MVPFormer, MVPFormerConfig, build

SMALL = {
    "segment": 64,
    "width": 32,
    "layers": 2,
    "heads": 4,
    "kv_heads": 2,
    "inner": 48,
    "positions": 16,
    "channels": 12,
}


def small(**changes) -> MVPFormer:
    torch.manual_seed(0)
    model = build("s", **{**SMALL, **changes}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)  # so that attention is not uniform
    return model


@pytest.mark.parametrize(
    ("size", "decoder", "total", "encoder", "lora"),
    [("s", 71_579_904, 74_184_498, 2_007_090, 245_760), ("m", 1_233_786_880, 1_243_336_754, 5_347_890, 1_376_256)],
)
def test_published_parameter_counts(size, decoder, total, encoder, lora):
    def count(module):
        return sum(p.numel() for p in module.parameters())

    with torch.device("meta"):
        model = MVPFormer(MVPFormerConfig(**SIZES[size]))
        updated = MVPFormer(MVPFormerConfig(**SIZES[size], lora_rank=8))
    assert (count(model.decoder), count(model), count(model.encoder)) == (decoder, total, encoder)
    assert count(updated) - count(model) == lora


def test_a_segment_changes_nothing_before_it():
    model, x = small(), torch.randn(2, 14, 3, 64)
    changed = x.clone()
    changed[:, 12] = torch.randn(2, 3, 64)
    before, after = model(x), model(changed)
    torch.testing.assert_close(before[:, :12], after[:, :12])
    assert (before[:, 12:] - after[:, 12:]).abs().amax((0, 2, 3)).min() > 1e-4


def test_reversed_channels_reverse_the_outputs_and_other_orders_do_not_commute():
    model, x = small(), torch.randn(1, 5, 6, 64)
    y = model(x)
    torch.testing.assert_close(model(x.flip(2)), y.flip(2), rtol=1e-4, atol=1e-5)
    order = torch.tensor([2, 0, 1, 5, 3, 4])
    assert (model(x[:, :, order]) - y[:, :, order]).abs().max() > 1e-4


def test_distance_indices_do_not_depend_on_the_size_of_the_grid():
    model, x = small(relative_index="distance"), torch.randn(1, 6, 4, 64)
    torch.testing.assert_close(model(x[:, :4]), model(x)[:, :4], rtol=1e-4, atol=1e-5)
    official = small()
    assert (official(x[:, :4]) - official(x)[:, :4]).abs().max() > 1e-4


def test_the_last_segment_alone_is_the_last_of_all():
    model, tokens = small(), torch.randn(2, 13, 3, 32)
    torch.testing.assert_close(model.decoder(tokens, last=True), model.decoder(tokens)[:, -1:], rtol=1e-5, atol=1e-6)


def test_contributions_of_channels_average_to_the_logits():
    model, x = small(classes=2), torch.randn(2, 5, 4, 64)
    tokens = model.encode(x)
    expected = model.head(model.decoder(tokens)[:, -1].mean(1))
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(model.contributions(tokens).mean(1), expected, rtol=1e-4, atol=1e-6)


def test_padded_channels_change_nothing_with_distance_indices():
    model, x = small(classes=2, relative_index="distance"), torch.randn(1, 5, 4, 64)
    padded = torch.cat([x, torch.randn(1, 5, 2, 64)], 2)
    mask = torch.tensor([[True] * 4 + [False] * 2])
    torch.testing.assert_close(model(padded, mask=mask), model(x), rtol=1e-4, atol=1e-5)


def test_scale_of_the_signal_does_not_matter():
    model, x = small(), torch.randn(1, 4, 2, 64) * 30
    torch.testing.assert_close(model.encode(10 * x), model.encode(x), rtol=1e-4, atol=1e-4)


def test_layers_count_in_the_scale_and_content_can_be_left_out():
    x = torch.randn(1, 5, 3, 64)
    plain = small()
    for changes in ({"scale_by_layer": True}, {"content": False}, {"window": 0}):
        other = MVPFormer(MVPFormerConfig(**{**SMALL, **changes})).eval()
        other.load_state_dict(plain.state_dict())
        assert (other(x) - plain(x)).abs().max() > 1e-5, changes


@pytest.mark.parametrize("structured", [False, True])
def test_dropout_is_on_in_training_alone(structured):
    rates = {"embedding_dropout": 0.3, "residual_dropout": 0.3, "attention_dropout": 0.3}
    model, x = small(**rates, structured_dropout=structured), torch.randn(1, 4, 3, 64)
    torch.testing.assert_close(model(x), model(x))
    model.train()
    assert (model(x) - model(x)).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((1, 4, 3, 65), "64 samples"),
        ((4, 3, 64), "batch, time, channels"),
        ((1, 17, 3, 64), "16 segments"),
        ((1, 4, 13, 64), "12 channels"),
        ((1, 4, 0, 64), "all at least 1"),
    ],
)
def test_inputs_that_do_not_fit(shape, words):
    with pytest.raises(ValueError, match=words):
        small()(torch.randn(shape))


def test_heads_say_what_they_are_not():
    with pytest.raises(ValueError, match="generative"):
        small().classify(torch.randn(1, 3, 2, 32))
    with pytest.raises(ValueError, match="seizure head"):
        small(classes=2).predict_next(torch.randn(1, 3, 2, 32))
    with pytest.raises(ValueError, match="positive"):
        MVPFormerConfig(layers=0)


def test_float64_and_bfloat16():
    x = torch.randn(1, 4, 3, 64)
    model = small()
    reference = model.double()(x.double())
    torch.testing.assert_close(model.float()(x).double(), reference, rtol=1e-4, atol=1e-4)
    halved = model.bfloat16()(x.bfloat16()).double()
    assert (halved - reference).norm() / reference.norm() < 0.05


def test_it_learns_a_rhythm_in_noise():
    """A 3–8 Hz rhythm in half of the channels of random-walk noise, in the last one to three of six segments."""
    generator = torch.Generator().manual_seed(1)

    def batch(count: int):
        channels = int(torch.randint(3, 9, (), generator=generator))
        x = torch.randn(count, channels, 6 * 256, generator=generator).cumsum(-1)
        y = torch.rand(count, generator=generator) < 0.5
        t = torch.arange(6 * 256) / 128
        begin = (6 - torch.randint(1, 4, (count, 1, 1), generator=generator)) * 256
        rhythm = torch.sin(2 * torch.pi * (3 + 5 * torch.rand(count, 1, 1, generator=generator)) * t) * 25
        some = torch.rand(count, channels, 1, generator=generator).argsort(1) < channels / 2
        x = x + rhythm * (torch.arange(6 * 256) >= begin) * some * y[:, None, None]
        return x.unflatten(-1, (6, 256)).transpose(1, 2), y.long()

    torch.manual_seed(0)
    model = build("tiny", classes=2)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    for _ in range(150):
        x, y = batch(16)
        loss = torch.nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        right = [(model(x).argmax(1) == y).float() for x, y in (batch(16) for _ in range(16))]
    assert torch.cat(right).mean() >= 0.95
