"""Decoding in tiles: exact for a decoder that sees a neighbourhood, whole where a frame fits, an option alone."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d, interpolate

from perturb.cli.plan import forward_cost
from perturb.data.prompts import Prompt
from perturb.diffusion import DDIMSampler
from perturb.errors import UserError
from perturb.models.tiling import decode_in_tiles
from perturb.models.videocrafter.checkpoint import empty_system
from perturb.models.videocrafter.spec import ModelSpec
from perturb.models.videocrafter.system import VideoSystem
from perturb.study.sample import ClipFormat, Generator, SampleConfig


def pointwise(latents: Tensor) -> Tensor:
    """A decoder without neighbours: b 4 t h w → b 3 t 2h 2w."""
    return latents[:, :3].repeat_interleave(2, -1).repeat_interleave(2, -2)


@pytest.mark.parametrize(("height", "width", "size"), [(8, 20, 8), (11, 17, 8), (9, 8, 4), (5, 6, 1)])
def test_tiles_of_a_pointwise_decoder_are_the_whole(height: int, width: int, size: int):
    seen, latents = list[tuple[int, ...]](), torch.randn(2, 4, 3, height, width)

    def decode(x: Tensor) -> Tensor:
        seen.append(tuple(x.shape[-2:]))
        return pointwise(x)

    torch.testing.assert_close(decode_in_tiles(decode, latents, size), pointwise(latents))
    assert len(seen) > 1
    assert set(seen) == {(min(size, height), min(size, width))}


def test_seams_are_blended_where_a_tile_does_not_know_its_neighbour():
    """A tile that is brighter than the next one passes over into it linearly."""
    answers = iter([1.0, 0.0])
    video = decode_in_tiles(lambda x: torch.full_like(x, next(answers)), torch.zeros(1, 3, 1, 8, 14), 8)
    row = video[0, 0, 0, 0]
    assert row[:6].tolist() == [1] * 6
    assert row[6:8].tolist() == pytest.approx([2 / 3, 1 / 3])
    assert row[8:].tolist() == [0] * 6


def test_what_the_edge_of_a_tile_sees_is_what_the_overlap_hides():
    """A 3×3 blur reaches one pixel: wrong at the edge of a tile, where its weight is least."""
    kernel, x = torch.full((3, 3, 3, 3), 1 / 27), torch.rand(1, 3, 1, 24, 24)

    def blur(part: Tensor) -> Tensor:
        return conv2d(interpolate(part[:, :, 0], scale_factor=2), kernel, padding=1)[:, :, None]

    error = (decode_in_tiles(blur, x, 16) - blur(x)).abs()
    assert error.amax(dim=(0, 1, 2))[2:14, 2:14].max() < 1e-6
    assert 1e-3 < error.max() < 0.1


def test_a_clip_is_tiled_when_asked_for_and_says_so(tiny_system: VideoSystem):
    prompts = [Prompt("p000", "a red circle moving left slowly")]

    def clip(tile: int | None) -> tuple[Generator, Tensor]:
        config = SampleConfig(height=64, width=64, frames=2, tile=tile)
        made = Generator(tiny_system, DDIMSampler(steps=1), prompts, config, image=None)
        return made, torch.from_numpy(made(made.jobs, lambda share: None)).float()

    (plain, whole), (_, fits), (tiled, parts) = clip(None), clip(64), clip(32)
    assert torch.equal(fits, whole)
    assert 0 < (parts - whole).abs().mean() < 64
    assert "tile" not in plain.describe()
    assert tiled.describe()["tile"] == 32 // tiny_system.spec.downsampling
    with pytest.raises(UserError, match=r"sample\.tile is 20; allowed for tiny: multiples of 16, or null"):
        clip(20)


def test_memory_is_that_of_a_tile(tiny_spec: ModelSpec):
    system = empty_system(None, tiny_spec)

    def largest(side: int, tile: int | None) -> float:
        latents = torch.empty(1, *ClipFormat(side, 2 * side, 4, 8).latent(system), device="meta")
        return forward_cost(system, lambda: decode_in_tiles(system.decode, latents, tile)).largest

    assert largest(256, None) > 2 * largest(256, 16)
    assert largest(512, 16) == largest(256, 16)
