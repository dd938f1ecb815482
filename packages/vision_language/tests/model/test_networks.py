"""The networks against their papers: sizes, limits, and what conditions what."""

import pytest
import torch

from core_attention.mechanisms.sentence_attention.attention import SentenceAttention
from vision_language.model.contrastive import answer_ids, contrastive_loss
from vision_language.model.focallens_mllm import FocalLensMLLM, FocalLensMLLMConfig
from vision_language.model.grounding_network import BACKBONES, GroundingConfig, GroundingNetwork
from vision_language.model.retrieval import tiny_embedder

pytestmark = pytest.mark.filterwarnings("ignore")


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_gate_is_the_sentences_alone_and_sums_to_one():
    block = SentenceAttention(16, 24)
    text = random(2, 16)
    gate = block.gate(text)
    torch.testing.assert_close(gate.sum(1), torch.ones(2))
    assert (gate > 0).all()
    features = random(2, 24, 5, 7, seed=1)
    torch.testing.assert_close(block(2 * features, text), 2 * block(features, text))
    torch.nn.init.zeros_(block.attention[3].weight)
    torch.nn.init.constant_(block.attention[3].bias, 0.3)
    torch.testing.assert_close(block(features, text), features / 24)


@pytest.mark.parametrize(("name", "total"), [("b0", 7_396_557), ("b7", 66_856_945)])
def test_published_parameter_counts(name, total):
    pytest.importorskip("timm")
    with torch.device("meta"):
        network = GroundingNetwork(GroundingConfig(backbone=name))
    assert sum(p.numel() for p in network.parameters()) == total
    merges = sum(p.numel() for p in network.merge_blocks.parameters())
    assert merges == {"b0": 42_048, "b7": 167_424}[name]


# the smallest and the largest here; those between are built in seconds each
QUICK_OR_SLOW = [name if name in ("b0", "b7") else pytest.param(name, marks=pytest.mark.slow) for name in BACKBONES]


@pytest.mark.parametrize("name", QUICK_OR_SLOW)
def test_every_backbone_has_the_channels_of_the_table(name):
    pytest.importorskip("timm")
    with torch.device("meta"):
        network = GroundingNetwork(GroundingConfig(backbone=name)).eval()
        features = network.backbone(torch.zeros(1, 3, 64, 64))
    assert tuple(feature.shape[1] for feature in features) == BACKBONES[name]


def test_odd_sizes_batches_and_single_items():
    config = GroundingConfig(backbone="small", channels=(4, 6, 8, 10, 12), sentence_dim=16)
    network = GroundingNetwork(config).eval()
    image, text = random(3, 3, 67, 45), random(3, 16, seed=1)
    logits = network(image, text)
    assert logits.shape == (3, 1, 67, 45)
    torch.testing.assert_close(network(image[1:2], text[1:2]), logits[1:2], rtol=1e-4, atol=1e-5)
    order = [2, 0, 1]
    torch.testing.assert_close(network(image[order], text[order]), logits[order], rtol=1e-4, atol=1e-5)


def test_an_instruction_conditions_clip_and_none_is_clip_itself():
    embedder = tiny_embedder(["which colour is it", "which shape is it"])
    network = embedder.network
    pixels = random(2, 3, 32, 32)
    plain = network.embed_image(pixels)
    expected = network.clip.get_image_features(pixel_values=pixels).pooler_output
    torch.testing.assert_close(plain, torch.nn.functional.normalize(expected, dim=-1), rtol=0, atol=0)
    conditions = embedder.embed_texts(["which colour is it", "which shape is it"])
    one = network.embed_image(pixels, conditions[:1].expand(2, -1))
    other = network.embed_image(pixels, conditions[1:].expand(2, -1))
    assert not torch.allclose(one, other, atol=1e-3)
    assert not torch.allclose(one, plain, atol=1e-3)
    torch.testing.assert_close(one.norm(dim=-1), torch.ones(2))
    shared = network.embed_from_patches(network.embed_patches(pixels), conditions[:1].expand(2, -1))
    torch.testing.assert_close(shared, one)


def test_the_text_encoder_is_frozen_and_stays_in_evaluation():
    network = tiny_embedder(["a b"]).network.train()
    assert not network.clip.text_model.training
    text = torch.nn.functional.normalize(random(2, 32), dim=-1)
    image = network.embed_image(random(2, 3, 32, 32), text)
    contrastive_loss(image, text, network.scale).total.backward()
    assert network.condition_proj.weight.grad.abs().sum() > 0
    assert network.clip.vision_model.encoder.layers[0].mlp.fc1.weight.grad is not None
    assert all(p.grad is None for p in network.clip.text_model.parameters())


def test_identical_answers_do_not_repel():
    image = torch.nn.functional.normalize(random(4, 8), dim=-1).requires_grad_()
    text = torch.nn.functional.normalize(random(4, 8, seed=1), dim=-1)
    ids = answer_ids(["yes", "Yes.", "2", "no"])
    assert ids.tolist() == [0, 0, 1, 2]
    plain = contrastive_loss(image, text, 5.0).total
    masked = contrastive_loss(image, text, 5.0, output_id=ids).total
    assert masked < plain
    swapped = contrastive_loss(text, image, 5.0, output_id=ids).total
    torch.testing.assert_close(swapped, masked)
    # nothing of sample 0 reaches the term of sample 1, and the other way round
    same = torch.tensor([0, 0])
    pair = image[:2].detach().requires_grad_()
    contrastive_loss(pair, text[:2], 5.0, output_id=same).total.backward()
    torch.testing.assert_close(pair.grad, torch.zeros(2, 8))


def mllm():
    vision = {"model_type": "clip_vision_model", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    vision |= {"num_attention_heads": 2, "image_size": 14, "patch_size": 7, "projection_dim": 16}
    text = {"model_type": "llama", "vocab_size": 40, "hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 2, "num_key_value_heads": 2, "initializer_range": 0.2}
    llava = {"vision_config": vision, "text_config": text, "image_token_index": 39, "image_seq_length": 4}
    llava |= {"vision_feature_layer": -2, "vision_feature_select_strategy": "default"}
    torch.manual_seed(0)
    return FocalLensMLLM(FocalLensMLLMConfig(llava, 38, 10)).eval()


@torch.no_grad()
def test_padding_on_either_side_and_a_shared_picture_give_the_same_embedding():
    model, pixels = mllm(), random(1, 3, 14, 14)
    prefix = torch.tensor([[1, 39, 39, 39, 39]])
    tails = [torch.tensor([5, 6, 7, 38]), torch.tensor([9, 38])]
    alone = []
    for tail in tails:
        ids = torch.cat([prefix, tail[None]], 1)
        alone.append(model(ids, torch.ones_like(ids), pixels))
    short = torch.cat([prefix, tails[1][None]], 1)
    for left in (True, False):
        pad = (2, 0) if left else (0, 2)
        ids = torch.nn.functional.pad(short, pad)
        mask = torch.nn.functional.pad(torch.ones_like(short), pad)
        torch.testing.assert_close(model(ids, mask, pixels), alone[1], rtol=1e-4, atol=1e-5)
    shared = model.embed_instructions(prefix, pixels, tails)
    torch.testing.assert_close(shared, torch.cat(alone), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="read-out token"):
        model(prefix, torch.ones_like(prefix), pixels)


@pytest.mark.slow
def test_published_backbones_convert_by_order():
    """efficientnet_pytorch's tensors stand in timm's order; needs that package."""
    published = pytest.importorskip("efficientnet_pytorch")
    from vision_language.model.official.sentence_attention import build, convert

    theirs = published.EfficientNet.from_name("efficientnet-b0").eval()
    state = {f"backbone.{key}": value for key, value in theirs.state_dict().items()}
    ours = build({"backbone": "b0"}).eval()
    converted = {key.removeprefix("backbone."): value for key, value in convert(state, {"backbone": "b0"}).items()}
    ours.backbone.load_state_dict(converted)
    image = random(1, 3, 65, 97)
    torch.testing.assert_close(
        ours.backbone(image)[-1], theirs.extract_endpoints(image)["reduction_5"], rtol=1e-4, atol=1e-4
    )
