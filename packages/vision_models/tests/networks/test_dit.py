"""The latent diffusion transformer, and sampling from it."""

import pytest
import torch

from vision_models.networks.moh.dit import DiT, create, grid_positions
from vision_models.networks.moh.sampling import linear_schedule, posterior, sample


def small(**options) -> DiT:
    sizes = {"input_size": 8, "hidden_size": 48, "depth": 3, "num_heads": [2, 4, 6], "head_dim": 12, "num_classes": 5}
    model = DiT(**sizes | {"shared": [2, 2, 3], "routed": [0, 1, 2]} | options).eval()
    for parameter in model.parameters():  # the published start is zero in every branch
        torch.nn.init.normal_(parameter, std=0.05)
    return model


def inputs(batch: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.randn(batch, 4, 8, 8), torch.tensor([10, 700])[:batch], torch.tensor([0, 5])[:batch]


def test_noise_and_variance_have_the_latents_shape():
    assert small()(*inputs()).shape == (2, 8, 8, 8)
    assert small(learn_sigma=False)(*inputs()).shape == (2, 4, 8, 8)


@pytest.mark.parametrize("shared", [None, 4])
def test_one_number_of_heads_serves_all_layers(shared):
    model = small(num_heads=4, head_dim=None, shared=shared, routed=0)
    assert model(*inputs()).isfinite().all()
    assert model.blocks[2].attn.num_heads == 4
    assert model.forward_with_balance(*inputs())[1] == []


def test_balance_losses_come_from_layers_that_route():
    _, losses = small().forward_with_balance(*inputs())
    assert len(losses) == 2
    assert all((loss > 0).item() for loss in losses)


def test_a_fresh_network_predicts_nothing_and_is_published_so():
    model = create("moh_dit_s2_90", depth=1, num_heads=[6], shared=[3], routed=[2], input_size=8)
    assert not model(*inputs()).any()
    with pytest.raises(ValueError, match="one of moh_dit_xl2_90"):
        create("moh_dit_s4_90")
    with pytest.raises(ValueError, match="2 entries for 3 blocks"):
        small(num_heads=[2, 4])


def test_guidance_of_one_is_the_class_itself():
    model = small()
    x, time, _ = inputs()
    labels = torch.tensor([3, 5])
    pair = torch.cat([x[:1], x[:1]])
    guided = model.forward_with_cfg(pair, time[:1].expand(2), labels, 1.0)
    torch.testing.assert_close(guided[:1], model(x[:1], time[:1], labels[:1]))


def test_positions_are_fixed_and_name_column_and_row():
    table = grid_positions(4, 16).reshape(4, 4, 16)
    torch.testing.assert_close(table[1, 2, :8], table[3, 2, :8])  # the same column
    torch.testing.assert_close(table[1, 2, 8:], table[1, 0, 8:])  # the same row
    assert not small().pos_embed.requires_grad


def test_all_steps_are_the_schedule_of_training():
    schedule = linear_schedule(1000)
    torch.testing.assert_close(schedule.beta, torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64))
    short = linear_schedule(10)
    assert short.times.tolist() == [0, 111, 222, 333, 444, 555, 666, 777, 888, 999]
    torch.testing.assert_close(torch.cumprod(1 - short.beta, 0), schedule.alpha_bar[short.times])
    with pytest.raises(ValueError, match="1 to 1000, got 0"):
        linear_schedule(0)


def test_the_variance_lies_between_that_of_the_step_and_of_the_posterior():
    model, schedule, step = small(), linear_schedule(20), 7
    x = torch.randn(1, 4, 8, 8)
    out = torch.randn(1, 8, 8, 8)
    alpha_bar, before, beta = schedule.alpha_bar[step], schedule.alpha_bar[step - 1], schedule.beta[step]
    for share, expected in ((1.0, beta), (-1.0, (1 - before) / (1 - alpha_bar) * beta)):
        out[:, 4:] = share
        _, deviation = posterior(model, schedule, step, x, out)
        torch.testing.assert_close(deviation, torch.full_like(x, float(expected) ** 0.5))


def test_a_perfect_prediction_leads_to_the_clean_latent():
    model, schedule = small(learn_sigma=False), linear_schedule(50)
    clean, noise = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8)
    alpha_bar = float(schedule.alpha_bar[0])
    x = alpha_bar**0.5 * clean + (1 - alpha_bar) ** 0.5 * noise
    mean, _ = posterior(model, schedule, 0, x, noise)
    torch.testing.assert_close(mean, clean)


def test_sampling_is_repeatable_and_guidance_changes_it():
    model = small()
    draws = []
    for scale in (1.0, 4.0, 4.0):
        generator = torch.Generator().manual_seed(3)
        draws.append(sample(model, [0, 4], steps=4, cfg_scale=scale, generator=generator))
    assert draws[0].shape == (2, 4, 8, 8)
    assert torch.equal(draws[1], draws[2])
    assert not torch.allclose(draws[0], draws[1])
    assert all(draw.isfinite().all() for draw in draws)


def test_every_step_but_the_last_adds_noise():
    generator, other = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    sample(small(), [0], steps=4, cfg_scale=1.0, generator=generator)
    for _ in range(4):  # the first latent, and three steps
        torch.randn(1, 4, 8, 8, generator=other)
    assert torch.equal(generator.get_state(), other.get_state())


def test_classes_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match=r"0 to 4, got \[5\]"):
        sample(small(), [5], steps=1)
    with pytest.raises(ValueError, match="no null class"):
        sample(small(class_dropout_prob=0.0), [1], steps=1)
