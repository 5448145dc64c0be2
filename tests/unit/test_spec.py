"""Specs as data: what is written can be read back, and mistakes are named."""

import json
from typing import Any

import pytest

from perturb.errors import UserError
from perturb.models.videocrafter.published import SPECS, get_spec
from perturb.models.videocrafter.spec import ModelSpec


@pytest.mark.parametrize("name", SPECS)
def test_json_round_trip(name: str) -> None:
    assert ModelSpec.from_dict(json.loads(json.dumps(SPECS[name].to_dict()))) == SPECS[name]


def test_downsampling_counts_the_levels_of_the_autoencoder() -> None:
    assert {spec.downsampling for spec in SPECS.values()} == {8}


def test_get_spec_suggests() -> None:
    assert get_spec("t2v_512_v2") is SPECS["t2v_512_v2"]
    with pytest.raises(UserError, match="Did you mean 't2v_512_v2'"):
        get_spec("t2v_512_v2.0")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (
            ("unet", "model_chanels"),
            320,
            r"model_chanels: unknown key\. Did you mean 'spec.unet.model_channels'",
        ),
        (("unet", "temporal_conv"), "yes", r"spec\.unet\.temporal_conv is 'yes'; allowed: true or false"),
        (("unet", "channel_mult"), 4, r"spec\.unet\.channel_mult is 4; allowed: a list"),
        (("unet", "channel_mult"), [1, 2.5], r"channel_mult\[1\] is 2\.5; allowed: a whole number"),
        (("unet", "num_res_blocks"), True, r"num_res_blocks is True; allowed: a whole number"),
        (("text", "tokenizer"), "bert", r"allowed: clip, file"),
        (("image",), {"width": 8}, r"spec\.image\.layers, .*: missing"),
        (("vae",), None, r"spec\.vae: expected a mapping"),
    ],
)
def test_mistakes_are_named(path: tuple[str, ...], value: Any, message: str) -> None:
    data = SPECS["t2v_512_v2"].to_dict()
    inner = data
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    with pytest.raises(UserError, match=message):
        ModelSpec.from_dict(data)


def test_missing_key_is_named() -> None:
    data = SPECS["t2v_512_v2"].to_dict()
    del data["unet"]["context_dim"]
    with pytest.raises(UserError, match="context_dim"):
        ModelSpec.from_dict(data)
