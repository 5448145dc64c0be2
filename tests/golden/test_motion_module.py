"""AnimateDiff's motion module against its published code."""

from dataclasses import replace

import pytest
import torch
from einops import rearrange

from perturb.models.animatediff.keys import diffusers_name
from perturb.models.animatediff.spec import SPECS
from perturb.models.videocrafter.keymap.unet import inside
from perturb.nn import TemporalTransformer
from tests.golden.golden_fixtures import fixtures, requires_fixtures
from tests.parity.fixtures import Fixture
from tests.parity.models import Ledger

pytestmark = requires_fixtures


def module(golden: Fixture) -> TemporalTransformer:
    config = golden.meta["config"]
    assert config["attention_block_types"] == ["Temporal_Self", "Temporal_Self"]
    heads, width = config["num_attention_heads"], config["in_channels"]
    assert (config["temporal_attention_dim_div"], config["temporal_position_encoding"]) == (1, True)
    spec = replace(SPECS["animatediff_v3"].unet, num_heads=heads)
    assert (spec.norm_groups, spec.motion_norm) == (32, "frame")  # of the published class, not in its configuration
    block = TemporalTransformer(spec, width, depth=config["num_transformer_block"])
    names = {theirs: ours for ours, theirs in inside("", "", block).items()}
    state = {}
    for key, tensor in golden.state.items():
        owner, _, leaf = diffusers_name(f".{key}").rpartition(".")
        state[f"{names[owner]}.{leaf}".removeprefix(".")] = tensor
    block.load_state_dict(state)
    return block.eval()


@pytest.mark.parametrize("golden", fixtures("animatediff_module"), ids=str)
def test_motion_module(golden: Fixture):
    ledger, block = Ledger(golden), module(golden)
    for call in golden.calls:
        x = golden.given(f"{call['name']}.x")
        with torch.no_grad():
            y = block(rearrange(x, "b c t h w -> (b t) c h w"), x.shape[2])
        ledger.check(f"{call['name']}.y", rearrange(y, "(b t) c h w -> b c t h w", b=len(x)))
    ledger.close()
