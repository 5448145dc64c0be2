"""`python -m perturb.partition`: every tensor of the UNet in one group, under the keys of its checkpoint."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_files import as_published, official, random_state

from perturb.errors import UserError
from perturb.models.videocrafter.checkpoint import save_system
from perturb.models.videocrafter.published import SPECS
from perturb.models.videocrafter.spec import ModelSpec
from perturb.models.videocrafter.system import VideoSystem
from perturb.partition import partition

PREFIX = "model.diffusion_model."


def asked(checkpoint: Path, spec: str | None = None, **changes: Any) -> dict[str, Any]:
    system = {"_target_": "perturb.models.videocrafter.checkpoint.load_system", "checkpoint": str(checkpoint)}
    values = {"system": system | ({"spec": spec} if spec else {}), "partition": {"groups": None}}
    return values | {"group": None, "names": "checkpoint", "output": None} | changes


def test_an_official_file_has_its_own_keys(
    tmp_path: Path, tiny_spec: ModelSpec, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    spec = as_published(tiny_spec)
    monkeypatch.setitem(SPECS, spec.name, spec)
    state = random_state(spec)
    path = official(tmp_path / "model.ckpt", state)
    partition(asked(path, spec.name, output=str(tmp_path / "groups.json")))
    lists = json.loads((tmp_path / "groups.json").read_text())
    keys = [key for group in lists.values() for key in group]
    assert len(keys) == len(set(keys))
    assert set(keys) == {key for key in state if key.startswith(PREFIX)}  # every tensor, each once, as in the file
    assert sum("temopral_conv" in key for key in lists["temporal"]) > 10  # which guessed expressions miss
    assert not any("temopral_conv" in key for key in lists["spatial"])
    assert {key.split(".")[2] for key in lists["conditioning"]} == {"time_embed", "fps_embedding"}
    assert lists["image"] == []
    capsys.readouterr()
    partition(asked(path, spec.name, group="conditioning", names="diffusers"))
    assert capsys.readouterr().out.splitlines()[:2] == [
        "time_embedding.linear_1.weight",
        "time_embedding.linear_1.bias",
    ]
    partition(asked(path, spec.name, group="conditioning", output=str(tmp_path / "c.txt")))
    assert (tmp_path / "c.txt").read_text().splitlines() == lists["conditioning"]


def test_names_are_those_of_the_file_that_has_them_all(
    tmp_path: Path, tiny_spec: ModelSpec, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """T2V-Turbo: the base is VideoCrafter2's file, the network one without a prefix."""
    base = as_published(tiny_spec)
    spec = dataclasses.replace(base, name="turbo", unet=dataclasses.replace(base.unet, guidance_dim=8))
    monkeypatch.setitem(SPECS, spec.name, spec)
    path = official(tmp_path / "model.ckpt", random_state(base))
    bare = {key.removeprefix(PREFIX): torch.zeros(1) for key in random_state(spec) if key.startswith(PREFIX)}
    torch.save(bare, tmp_path / "unet_no_mg.pt")
    values = asked(path, spec.name, group="conditioning")
    values["system"]["unet"] = str(tmp_path / "unet_no_mg.pt")
    partition(values)
    assert "time_cond_proj.weight" in capsys.readouterr().out.split()
    del values["system"]["unet"]
    with pytest.raises(UserError, match="no known names of this network are among them: names=ours, names=official"):
        partition(values)


def test_a_folder_of_ours_has_our_names_and_counts_add_up(
    tmp_path: Path, tiny_system: VideoSystem, capsys: pytest.CaptureFixture[str]
):
    folder = save_system(tiny_system, tmp_path / "model")
    partition(asked(folder))
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    counts = tiny_system.partition().counts()
    assert [row[0] for row in rows] == ["group", *counts, "all"]
    assert {row[0]: int(row[2].replace(",", "")) for row in rows[1:]} == counts | {"all": sum(counts.values())}
    assert rows[1][4] == "conv_in.weight"
    partition(asked(folder, group="time", partition={"groups": {"time": "temporal", "rest": "^(?!.*temporal)"}}))
    assert all("temporal" in name for name in capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"group": "spacial"}, "group is 'spacial'; allowed: spatial, temporal"),
        ({"names": "peft"}, "names is 'peft'; allowed for this model: checkpoint, ours, official, diffusers"),
        ({"output": "x.txt"}, "a text holds the names of one group"),
    ],
)
def test_what_there_is_not_is_named(tmp_path: Path, tiny_system: VideoSystem, changes: dict[str, str], said: str):
    with pytest.raises(UserError, match=said):
        partition(asked(save_system(tiny_system, tmp_path / "model"), **changes))
