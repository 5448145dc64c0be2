"""The tiny model as image-to-video ones."""

import dataclasses
from typing import Any, Literal

from perturb.models.videocrafter.spec import ImageSpec, ModelSpec, ResamplerSpec
from perturb.models.videocrafter.system import VideoSystem, build_system
from perturb.models.videocrafter.tokenizer import FileTokenizer
from perturb.world.scenes import WORDS


def image_spec(tiny_spec: ModelSpec, **unet: Any) -> ModelSpec:
    """VideoCrafter's way: image tokens for the whole clip."""
    projector = ResamplerSpec(dim=16, depth=1, head_dim=8, heads=2, num_queries=4, embedding_dim=32, output_dim=32)
    image = ImageSpec(
        width=32, layers=1, head_width=16, patch_size=16, image_size=32, embed_dim=16, text_width=32, vocab_size=40,
        projector=projector,
    )  # fmt: skip
    network = dataclasses.replace(tiny_spec.unet, image_attention=True, **unet)
    return dataclasses.replace(tiny_spec, name="tiny_image", unet=network, image=image)


def dynamicrafter_spec(tiny_spec: ModelSpec, joins: Literal["first", "ends"] = "first") -> ModelSpec:
    """DynamiCrafter's: tokens for each of 4 frames, latents joined, v-prediction from pure noise."""
    spec = image_spec(tiny_spec, in_channels=8, learned_image_scale=True)
    assert spec.image is not None
    projector = dataclasses.replace(spec.image.projector, num_queries=4 * 2)
    image = dataclasses.replace(spec.image, frames=4, joins=joins, projector=projector)
    schedule = dataclasses.replace(spec.schedule, zero_terminal_snr=True, prediction="v")
    return dataclasses.replace(spec, name=f"tiny_{joins}", image=image, schedule=schedule)


def built(spec: ModelSpec) -> VideoSystem:
    """With fresh weights; the tokenizer knows the words of the embedded world."""
    system = build_system(spec, tokenizer=FileTokenizer.from_words(WORDS, spec.text.tokens))
    for parameter in system.unet.parameters():
        if parameter.ndim > 1 and not parameter.any():
            parameter.data.normal_(std=0.02)
    return system
