"""The recipes in conf/: each is a valid training that moves what its name says, and twins differ in nothing else."""

from pathlib import Path
from typing import Any

import pytest

from perturb.cli.plan import given
from perturb.data import shards, stills, videos
from perturb.errors import UserError
from perturb.store.paths import conf_dir
from perturb.structured import read
from perturb.train import _check_output, _missing
from perturb.training.config import TrainConfig
from tests.unit.test_training_plan import composed

NAMES = sorted(path.stem for path in (conf_dir() / "experiment" / "train").glob("*.yaml"))
SOURCES = {
    ("video", "table"): videos.VideoTable,
    ("video", "folder"): videos.VideoFolder,
    ("video", "shards"): shards.VideoShards,
    ("images", "folder"): stills.still_folder,
    ("images", "table"): stills.still_table,
    ("images", "dataset"): stills.still_dataset,
    ("images", "shards"): shards.ImageShards,
}


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_is_a_valid_training(name: str):
    values = composed(f"experiment=train/{name}")
    config = read(TrainConfig, given(values))
    absent = set(_missing(values)) - {"work", "output"}
    if name.startswith("nano_"):
        assert not absent
        assert config.validation is not None or config.autoencoder is not None
    else:
        assert absent == {"init", "data.video" if name in ("full", "partial") else "data.images"}
    form, _, kind = config.recipe.partition("_")
    if form in ("direct", "lora"):
        assert config.trained is not None
        assert config.trained.group == kind
        assert (config.trained.lora is not None) == (form == "lora")
        assert not config.trained.fps_embedding
        assert not config.trained.time_embedding
    assert config.loss.offset_noise == 0
    assert not config.loss.zero_terminal_snr


@pytest.mark.parametrize("prefix", ["nano_", ""])
def test_twins_differ_in_what_is_trained_and_in_nothing_else(prefix: str):
    full, partial = (composed(f"experiment=train/{prefix}{name}") for name in ("full", "partial"))
    different = {key for key in full if full[key] != partial[key]}
    assert different - {"work", "output"} == {"recipe", "trained"}
    assert partial["trained"] == {
        "group": "temporal",
        "time_embedding": False,
        "fps_embedding": True,
        "text_encoder": False,
        "lora": None,
    }


def test_fine_tunings_of_two_bases_go_to_two_places():
    full, partial = (composed("experiment=train/nano_lora_both", f"base={base}") for base in ("full", "partial"))
    assert full["init"] == "package:weights/nano/full"
    assert len({value for values in (full, partial) for value in (values["work"], values["output"])}) == 4


@pytest.mark.parametrize(("group", "name"), SOURCES)
def test_every_source_names_what_it_builds_with_its_own_arguments(group: str, name: str):
    import inspect

    import hydra.utils

    seam: dict[str, Any] = composed("experiment=train/full", f"train/{group}={name}")["data"][group]
    target = hydra.utils.get_object(seam["_target_"])
    assert target is SOURCES[group, name]
    assert set(seam) - {"_target_"} <= set(inspect.signature(target).parameters)


def test_a_finished_model_replaces_nothing_but_a_model(tmp_path: Path) -> None:
    (tmp_path / "models" / "other").mkdir(parents=True)
    with pytest.raises(UserError, match="is no model of ours, and would be replaced whole"):
        _check_output(tmp_path / "models", {})
    with pytest.raises(UserError, match=r"work=.* lies in output=.*, which would be replaced"):
        _check_output(tmp_path / "new", {"work": tmp_path / "new" / "work"})
    (tmp_path / "models" / "spec.json").write_text("{}")
    _check_output(tmp_path / "models", {"work": tmp_path / "work"})
    _check_output(tmp_path / "new", {"work": tmp_path / "work", "init": tmp_path / "models"})
