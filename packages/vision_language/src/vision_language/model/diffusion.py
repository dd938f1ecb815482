"""RefAM on a diffusion pipeline of diffusers: one denoising step at a middle noise level, and where its words look.

FLUX.1, Stable Diffusion 3 and 3.5. The noise level, the magnets and the layers are reconstruction (docs/mechanisms/refam.md).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from core_attention.mechanisms.refam.heatmap import Cleaner, heatmap, spatial_prior
from core_attention.mechanisms.refam.pretrained import collect
from core_attention.mechanisms.refam.sinks import Cleaning
from core_runtime.errors import UserError
from vision_language.model.masks import box_of, mask_of, otsu
from vision_language.model.prompts import MAGNETS, Prompt, make_prompt
from vision_language.model.sentences import usable_sentence
from vision_language.results import Grounding

if TYPE_CHECKING:
    from PIL.Image import Image

ADVICE = "a folder of diffusers with FLUX.1, Stable Diffusion 3 or 3.5; 'vision-language models' lists them"


@dataclass(frozen=True)
class Settings:
    """How a picture is looked at; all of it reconstruction.

    Attributes:
        noise: σ of the noised picture, 0…1.
        noises: draws that are averaged.
        long_side: pixels that the picture is resized to, in steps of 16.
        cleaning, kappa: of sinks.
        magnets: words appended to the prompt.
        places: whether words such as "left" weigh that side of the picture.
        seed: of the noise.
    """

    noise: float = 0.4
    noises: int = 1
    long_side: int = 1024
    cleaning: Cleaning = "suppress"
    kappa: float = 4.0
    magnets: tuple[str, ...] = MAGNETS
    places: bool = False
    seed: int = 0


@dataclass
class RefamGrounder:
    """A pipeline, ready to be asked; nothing of it is trained or changed."""

    pipeline: Any
    settings: Settings = Settings()
    engine: str = "refam"

    @torch.inference_mode()
    def ground(self, image: Image, sentences: Sequence[str], *, threshold: float | None = None) -> list[Grounding]:
        """Where each sentence points; the picture is encoded once.

        Args:
            image: the picture, upright.
            sentences: what is to be found.
            threshold: heat above which a pixel is meant; None: Otsu's.
        """
        latents = self._latents(image)
        return [self._ground(image, latents, usable_sentence(sentence), threshold) for sentence in sentences]

    def _ground(self, image: Image, latents: Tensor, sentence: str, threshold: float | None) -> Grounding:
        flux = hasattr(self.pipeline, "tokenizer_2") and not hasattr(self.pipeline, "tokenizer_3")
        prompt, text = self._flux_text(sentence) if flux else self._sd3_text(sentence)
        rows, columns = latents.shape[2] // 2, latents.shape[3] // 2
        cleaner = Cleaner(self.settings.kappa, self.settings.cleaning)
        generator = torch.Generator().manual_seed(self.settings.seed)
        transformer = self.pipeline.transformer
        sigma = self.settings.noise
        with collect(transformer, [prompt.tokens], cleaner=cleaner, stop=False) as collected:
            for _ in range(self.settings.noises):
                noise = torch.randn(latents.shape, generator=generator).to(latents)
                noised = (1 - sigma) * latents + sigma * noise
                if flux:
                    self._run_flux(noised, text, sigma)
                else:
                    transformer(hidden_states=noised, timestep=torch.tensor([1000 * sigma]).to(latents), **text)
        prior = spatial_prior(prompt.tokens.names, (rows, columns)) if self.settings.places else None
        located = heatmap(collected[0].cross, prompt.tokens, (rows, columns), prior=prior)
        heat = F.interpolate(
            located.heat[None, None].float(), size=(image.height, image.width), mode="bilinear", align_corners=False
        )[0, 0]
        heat = heat.cpu().numpy()
        if not np.isfinite(heat).all():
            raise UserError("the heat map is not finite", "the pipeline's precision may be too low")
        maps = located.words.reshape(-1, rows, columns).float().cpu().numpy()
        words = dict(zip(prompt.tokens.names, maps, strict=True))
        peak = located.point[0] * image.width, located.point[1] * image.height
        mask = mask_of(heat, otsu(heat) if threshold is None else threshold, holding=peak)
        sinks = [layer for layer, found_sinks in collected[0].sinks.items() if bool(found_sinks.any())]
        notes = list(prompt.notes)
        if sinks:
            notes.append(
                f"attention sinks in {len(sinks)} of {len(collected[0].sinks)} layers were handled ({self.settings.cleaning})"
            )
        return Grounding(sentence, self.engine, heat, mask, peak, box_of(mask), words, tuple(notes))

    def _latents(self, image: Image) -> Tensor:
        from PIL import Image as Pillow

        scale = self.settings.long_side / max(image.size)
        width, height = (max(16, round(side * scale / 16) * 16) for side in image.size)
        resized = image.convert("RGB").resize((width, height), Pillow.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.asarray(resized, np.float32) / 127.5 - 1).permute(2, 0, 1)[None]
        vae = self.pipeline.vae
        latents = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist.mode()
        return (latents - (vae.config.shift_factor or 0.0)) * vae.config.scaling_factor

    def _flux_text(self, sentence: str) -> tuple[Prompt, dict[str, Tensor]]:
        longest = self.pipeline.tokenizer_2.model_max_length
        longest = min(longest, 512)
        prompt = make_prompt(sentence, self.pipeline.tokenizer_2, longest=longest, magnets=self.settings.magnets)
        embeddings, pooled, ids = self.pipeline.encode_prompt(
            prompt=prompt.text, prompt_2=None, max_sequence_length=longest
        )
        return prompt, {"encoder_hidden_states": embeddings, "pooled_projections": pooled, "txt_ids": ids}

    def _sd3_text(self, sentence: str) -> tuple[Prompt, dict[str, Tensor]]:
        pipeline = self.pipeline
        clip = pipeline.tokenizer_max_length  # CLIP's tokens stand before T5's
        with_t5 = pipeline.text_encoder_3 is not None
        tokenizer = pipeline.tokenizer_3 if with_t5 else pipeline.tokenizer
        longest, first = (min(256, tokenizer.model_max_length), clip) if with_t5 else (clip, 0)
        prompt = make_prompt(sentence, tokenizer, longest=longest, magnets=self.settings.magnets, first=first)
        embeddings, _, pooled, _ = pipeline.encode_prompt(
            prompt=prompt.text,
            prompt_2=None,
            prompt_3=None,
            do_classifier_free_guidance=False,
            max_sequence_length=longest,
        )
        return prompt, {"encoder_hidden_states": embeddings, "pooled_projections": pooled}

    def _run_flux(self, latents: Tensor, text: dict[str, Tensor], sigma: float) -> None:
        batch, channels, height, width = latents.shape
        packed = self.pipeline._pack_latents(latents, batch, channels, height, width)
        ids = self.pipeline._prepare_latent_image_ids(batch, height // 2, width // 2, latents.device, latents.dtype)
        guided = self.pipeline.transformer.config.guidance_embeds
        guidance = torch.tensor([3.5]).to(latents) if guided else None
        timestep = torch.tensor([sigma]).to(latents)
        self.pipeline.transformer(hidden_states=packed, timestep=timestep, guidance=guidance, img_ids=ids, **text)


def is_pipeline(folder: str | None) -> bool:
    """Whether a folder holds a pipeline of diffusers."""
    return folder is not None and (Path(folder) / "model_index.json").is_file()


def load_pipeline(folder: str, device: str = "cpu", settings: Settings = Settings()) -> RefamGrounder:
    """A pipeline from a local folder.

    Raises:
        UserError: diffusers is missing, or the folder holds another pipeline.
    """
    try:
        from diffusers import DiffusionPipeline  # pyright: ignore[reportPrivateImportUsage]
    except ImportError:
        raise UserError("RefAM needs diffusers", "pip install 'attention-suite-vision-language[diffusion]'") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pipeline = DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder}: {str(error).splitlines()[0]}", ADVICE) from None
    if type(pipeline.transformer).__name__ not in ("FluxTransformer2DModel", "SD3Transformer2DModel"):
        raise UserError(f"{folder} is a {type(pipeline).__name__}", ADVICE)
    return RefamGrounder(pipeline.to(device), settings)
