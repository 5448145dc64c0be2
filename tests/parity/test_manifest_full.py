"""The official state dict of every published model: each key and shape of the manifests, nothing left over."""

import json
from pathlib import Path

import pytest

from perturb.models.videocrafter.keymap import expected_keys
from perturb.models.videocrafter.published import SPECS

MANIFESTS = {
    "t2v_512_v1": "t2v_512_v1.0",
    "t2v_1024_v1": "t2v_1024_v1.0",
    "i2v_512_v1": "i2v_512_v1.0",
    "t2v_512_v2": "t2v_512_v2.0",
}
PARAMETERS = {  # of the UNet; from reference tables of the published configurations
    "t2v_512_v1": 1_144_485_956,
    "t2v_1024_v1": 1_146_536_516,
    "i2v_512_v1": 1_438_843_460,
    "t2v_512_v2": 1_413_284_420,
}


def manifest(folder: Path, name: str) -> dict[str, tuple[int, ...]]:
    """Key → shape, the union of a configuration's index and its component files."""
    index = json.loads((folder / f"manifest_{name}.json").read_text())
    files = [part["file"] for part in index["components"].values()]
    entries = index["entries"] + [e for file in files for e in json.loads((folder / file).read_text())["entries"]]
    keys = {key: tuple(shape) for key, shape, _ in entries}
    assert len(keys) == len(entries) == index["n_keys"]
    return keys


def test_every_published_spec_has_a_manifest(parity_dir: Path):
    assert MANIFESTS.keys() == {name for name in SPECS if name.startswith(("t2v_512", "t2v_1024", "i2v"))}
    found = {path.stem.removeprefix("manifest_") for path in parity_dir.glob("manifest_*v[0-9].[0-9].json")}
    assert {name for name in found if not name.startswith("unet_")} == set(MANIFESTS.values())


@pytest.mark.parametrize("name", MANIFESTS)
def test_expected_keys_are_the_manifest(parity_dir: Path, name: str):
    expected, official = dict(expected_keys(SPECS[name])), manifest(parity_dir, MANIFESTS[name])
    assert sorted(expected.keys() - official.keys()) == []
    assert sorted(official.keys() - expected.keys()) == []
    assert {key: shape for key, shape in expected.items() if official[key] != shape} == {}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts_of_the_unet(name: str):
    import torch

    with torch.device("meta"):
        unet = SPECS[name].build_unet()
    assert sum(p.numel() for p in unet.parameters()) == PARAMETERS[name]
