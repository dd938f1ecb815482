"""The generative objective against its definition."""

import pytest
import torch

import ieeg.model.objective as objective
from ieeg.model.objective import contrastive_logits, contrastive_loss, sample_negatives


def tensors(batch=2, time=4, channels=3, width=8, count=5):
    generator = torch.Generator().manual_seed(3)
    predicted, encoded = (torch.randn(batch, time, channels, width, generator=generator) for _ in range(2))
    return predicted, encoded, sample_negatives(batch, time, channels, count, generator=generator)


def definition(predicted, encoded, negatives, temperature=0.1):
    pool, rows = encoded.detach().flatten(0, 2), []
    for b in range(encoded.shape[0]):
        for t in range(encoded.shape[1] - 1):
            for c in range(encoded.shape[2]):
                candidates = torch.cat([encoded[b, t + 1, c][None], pool[negatives[b, t + 1, c]]])
                logits = torch.cosine_similarity(predicted[b, t, c][None], candidates, dim=-1) / temperature
                same = (candidates - candidates[:1]).norm(dim=-1) < 1e-8 + 1e-5 * candidates[0].norm()
                same[0] = False
                rows.append(logits.masked_fill(same, -torch.inf))
    return torch.stack(rows)


@pytest.mark.parametrize("chunk", [1, 2**22])
def test_equals_its_definition_forward_and_gradients(monkeypatch, chunk):
    monkeypatch.setattr(objective, "CHUNK", chunk)
    predicted, encoded, negatives = tensors()
    encoded[0, 0, 0] = encoded[0, 1, 0]  # a negative equal to a positive
    negatives[0, 1, 0, 0] = 0
    found = []
    for form in (contrastive_logits, definition):
        p, e = predicted.clone().requires_grad_(), encoded.clone().requires_grad_()
        logits = form(p, e, negatives)
        contrastive_loss(logits).backward()
        found.append((logits.detach(), p.grad, e.grad))
    assert found[0][0][0, 1] == -torch.inf
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("law", ["uniform", "official"])
def test_negatives_are_others_and_reach_what_the_law_says(law):
    drawn = sample_negatives(2, 3, 2, 400, law=law, generator=torch.Generator().manual_seed(0))
    own = torch.arange(12).view(2, 3, 2, 1)
    assert (drawn != own).all()
    highest = 11 if law == "uniform" else 6
    assert drawn.max() == highest
    assert drawn.min() == 0


def test_flat_channels_give_finite_losses():
    predicted, encoded, negatives = tensors()
    encoded[:, :, 1] = 0
    loss = contrastive_loss(contrastive_logits(predicted.requires_grad_(), encoded, negatives))
    loss.backward()
    assert loss.isfinite()
    assert predicted.grad.isfinite().all()


def test_inputs_that_do_not_fit():
    predicted, encoded, negatives = tensors()
    with pytest.raises(ValueError, match="fit together"):
        contrastive_logits(predicted[:, :3], encoded, negatives)
    with pytest.raises(ValueError, match="no next one"):
        contrastive_logits(predicted[:, :1], encoded[:, :1], negatives[:, :1])
    with pytest.raises(ValueError, match="no negatives"):
        sample_negatives(1, 4, 3, 5, law="official")
    with pytest.raises(ValueError, match="no negatives"):
        sample_negatives(1, 1, 1, 5)
