"""What many tests share: the golden data's folder, and a complete model small enough for a test.

Tests compare bits and references of the CPU, so a GPU is hidden from them; CUDA_VISIBLE_DEVICES=0 shows it (for
tests/bench).
"""

import os
from pathlib import Path

import pytest
import torch

from perturb.models.videocrafter.spec import ModelSpec, SamplingDefaults, ScheduleSpec, TextSpec, UNetSpec, VAESpec
from perturb.models.videocrafter.system import VideoSystem, build_system
from perturb.models.videocrafter.tokenizer import FileTokenizer
from perturb.world.scenes import WORDS
from tests.parity.fixtures import folder

TOKENS = 16
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # read when the GPU is first asked for; commands inherit it


@pytest.fixture(scope="session")
def parity_dir() -> Path:
    """The golden data; without it the test is skipped, saying so."""
    if not folder().is_dir():
        pytest.skip("no golden data: set PERTURB_PARITY to the folder with the parity fixtures")
    return folder()


@pytest.fixture(scope="session")
def tiny_spec() -> ModelSpec:
    """VideoCrafter2's flags at toy widths: f = 8 autoencoder, 32 channels, text of 16 tokens in the shapes' words."""
    unet = UNetSpec(
        model_channels=32,
        channel_mult=(1, 2),
        num_res_blocks=1,
        attention_resolutions=(2, 1),
        num_head_channels=16,
        context_dim=32,
        temporal_length=8,
        temporal_conv=True,
        fps_cond=True,
        relative_position=False,
        image_attention=False,
        # 16 groups: with one channel per group the time embedding would vanish behind the norm.
        norm_groups=16,
        text_tokens=TOKENS,
    )
    return ModelSpec(
        name="tiny",
        unet=unet,
        vae=VAESpec(block_out_channels=(8, 8, 16, 16), layers_per_block=1, norm_groups=4),
        text=TextSpec(
            width=32, heads=2, layers=2, vocab_size=4 + len(WORDS), tokens=TOKENS, embed_dim=32, tokenizer="file"
        ),
        schedule=ScheduleSpec(latent_scale=0.7, scale_table_length=1000),
        sampling=SamplingDefaults(height=32, width=32, frames=4, fps=8, steps=5),
    )


@pytest.fixture
def tiny_system(tiny_spec: ModelSpec) -> VideoSystem:
    """The tiny model with random weights (seed 0); its zero-initialised layers get small ones, so all parts matter."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        system = build_system(tiny_spec, tokenizer=FileTokenizer.from_words(WORDS, TOKENS))
        with torch.no_grad():
            for parameter in system.unet.parameters():
                if parameter.ndim > 1 and not parameter.any():
                    parameter.normal_(std=0.02)
    return system


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    """Tests that draw from torch's global state draw the same every time."""
    torch.manual_seed(0)
