"""Whole pipelines against the published one: prompts (and an image) in, uint8 frames out, through ``VideoSystem``."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from einops import rearrange
from torch import Tensor

from perturb.diffusion import DDIMSampler
from perturb.models.base import to_uint8
from tests.parity.fixtures import Fixture, fixtures, requires_fixtures
from tests.parity.models import Ledger, load_system
from tests.unit.sampler_case import replayed

pytestmark = requires_fixtures

CALLS = [(golden, call) for golden in fixtures("e2e") for call in golden.calls]


class GoldenTokens:
    """A tokenizer for the fixture's ids: prompt "0" is its first row, and so on; the empty prompt has its own row."""

    def __init__(self, rows: Tensor, empty: Tensor) -> None:
        self.rows, self.empty = rows, empty

    def __call__(self, prompts: Sequence[str]) -> Tensor:
        return torch.stack([self.rows[int(prompt)] if prompt else self.empty[0] for prompt in prompts])


@pytest.mark.parametrize(("golden", "call"), CALLS, ids=[f"{golden}-{call['name']}" for golden, call in CALLS])
def test_pipeline(golden: Fixture, call: dict[str, Any]):
    name, ledger = call["name"], Ledger(golden)
    tokens, empty = golden.given(f"{name}.tokens"), golden.given(f"{name}.tokens_uncond")
    system = load_system(golden.meta["state_from"], call["diffusion"], GoldenTokens(tokens, empty))
    prompts = [str(row) for row in range(len(tokens))]
    fps = golden.given(f"{name}.fps") if call["fps"] == "tensor" else call["fps"]
    image = None
    if system.image_encoder is not None:
        frames = rearrange(golden.given(f"{name}.image_u8"), "b h w c -> b c h w")
        image = (frames.float() / 255 - 0.5) * 2

    cond, uncond = system.conditioning(prompts, fps, image), system.unconditional(len(prompts), fps)
    ledger.check(f"{name}.text_emb", cond.text)
    if cond.image is not None and uncond.image is not None:
        ledger.check(f"{name}.image_emb", cond.image)
        ledger.check(f"{name}.image_emb_uncond", uncond.image)
    latent = DDIMSampler(steps=call["S"], guidance=call["cfg_scale"], eta=call["eta"]).sample(
        golden.given(f"{name}.x_T"),
        replayed(system.denoise, cond, uncond, golden.given(f"{name}.noise"), system.schedule),
    )
    ledger.check(f"{name}.latent", latent)
    video = system.decode(latent)
    ledger.check(f"{name}.video", video)
    check_frames(ledger, f"{name}.frames_u8", to_uint8(video))
    ledger.close(f"{name}.")


def check_frames(ledger: Ledger, name: str, actual: Tensor):
    """One level of difference is allowed at the boundaries of the truncation, and only for few pixels."""
    expected = ledger.golden.expected(name)
    assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
    difference = (actual.int() - expected.int()).abs()
    assert difference.max() <= 1
    assert (difference > 0).float().mean() < 0.01
    ledger.seen.add(name)


@pytest.mark.parametrize("golden", fixtures("e2e"), ids=str)
def test_every_output_belongs_to_a_call(golden: Fixture):
    assert {golden.call_of(name) for name in golden.outputs()} == {call["name"] for call in golden.calls}
