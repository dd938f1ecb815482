"""RefAM on tiny random pipelines, built from configurations alone."""

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast, T5Config, T5EncoderModel

from vision_language.model.diffusion import RefamGrounder, Settings

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings("ignore")


def tokenizer(length):
    words = [
        "<pad>",
        "<s>",
        "</s>",
        "<unk>",
        "red",
        "circle",
        "blue",
        "square",
        "the",
        "of",
        "with",
        ".",
        "and",
        "pink",
    ]
    made = Tokenizer(WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = Whitespace()
    made.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unk>", pad_token="<pad>", eos_token="</s>", model_max_length=length
    )


def flux():
    torch.manual_seed(0)
    clip = {
        "vocab_size": 14,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=2, norm_num_groups=4, layers_per_block=1, shift_factor=0.1, scaling_factor=0.5,
    )  # fmt: skip
    transformer = diffusers.FluxTransformer2DModel(
        patch_size=1, in_channels=8, num_layers=1, num_single_layers=2, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=24, pooled_projection_dim=16, guidance_embeds=True, axes_dims_rope=(2, 2, 4),
    )  # fmt: skip
    t5 = T5Config(vocab_size=14, d_model=24, d_ff=24, d_kv=8, num_layers=1, num_heads=2)
    return diffusers.FluxPipeline(
        diffusers.FlowMatchEulerDiscreteScheduler(), vae, CLIPTextModel(CLIPTextConfig(**clip, eos_token_id=2)),
        tokenizer(77), T5EncoderModel(t5).eval(), tokenizer(24), transformer.eval(),
    )  # fmt: skip


def test_flux_grounds_a_sentence_and_is_left_as_it_was():
    pipeline = flux()
    before = {name: value.clone() for name, value in pipeline.transformer.state_dict().items()}
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (41, 90, 3), np.uint8))
    grounder = RefamGrounder(pipeline, Settings(long_side=96, noises=2, kappa=1.2))
    found, again = grounder.ground(image, ["the red circle", "the red circle"])
    assert found.heat.shape == found.mask.shape == (41, 90)
    assert set(found.words) == {"red", "circle"}
    assert 0 <= found.point[0] <= 90
    assert 0 <= found.point[1] <= 41
    assert found.box is not None
    np.testing.assert_array_equal(found.heat, again.heat)  # the same noise
    other = grounder.ground(image, ["blue square"])[0]
    assert not np.array_equal(other.heat, found.heat)
    assert all(torch.equal(value, before[name]) for name, value in pipeline.transformer.state_dict().items())
