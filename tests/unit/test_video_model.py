"""A model of no known family goes through a whole study, seen as a `VideoModel` alone."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import load_file

from perturb.analysis.summary import summarise
from perturb.cli.config import RunConfig
from perturb.data.prompts import load_prompts
from perturb.diffusion import DDIMSampler
from perturb.errors import UserError
from perturb.models.base import VideoModel
from perturb.perturbation.files import read
from perturb.run import study
from perturb.store.paths import conf_dir
from perturb.store.records import read_scores, read_train
from perturb.store.rundir import RunDir
from perturb.store.states import step_id
from perturb.structured import read as read_config
from perturb.study.sample import Generator, SampleConfig
from tests.unit.foreign_model import Foreign

SPACE, TIME, WORDS = 3 * 3 * 9 + 3, 3 * 3 * 3 + 3, 8 * 3 + 3  # parameters of the three layers of the network


@pytest.fixture
def values(tmp_path: Path) -> dict[str, Any]:
    """The configuration of a study of seconds."""
    (tmp_path / "images").mkdir()
    for index, caption in enumerate(("a red circle", "a blue star")):
        pixels = np.random.default_rng(index).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{index}.png")
        (tmp_path / "images" / f"{index}.txt").write_text(caption)
    (tmp_path / "prompts.txt").write_text("a red star\na blue circle\n")
    changes = ["images=folder", f"images.folder={tmp_path / 'images'}", f"prompts.file={tmp_path / 'prompts.txt'}"]
    changes += [
        f"runs_dir={tmp_path}",
        "probe_steps=[0,4]",
        "fit.batch_size=2",
        "fit.learning_rate=1e-1",
        "perturbation.rank=2",
        "own_images=null",
    ]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        composed: Any = OmegaConf.to_container(compose("config", overrides=changes), resolve=True)
    return composed | {"system": {"_target_": "tests.unit.foreign_model.Foreign", "device": "cpu"}}


def studied(values: dict[str, Any], run: RunDir, **changes: Any) -> RunDir:
    study(read_config(RunConfig, values | changes), run)
    return run


def test_a_foreign_model_is_fitted_sampled_and_scored(values: dict[str, Any], tmp_path: Path):
    run = studied(values, RunDir(tmp_path / "run"), group="temporal")
    manifest = run.manifest()
    assert manifest.partition == {"spatial": SPACE, "temporal": TIME, "conditioning": WORDS, "image": 0}
    assert manifest.frozen["unchanged"] is True
    assert read(run.adapter(step_id(4))).factors.keys() == {"time"}
    rows = read_train(run.train_log)
    assert rows[0].magnitude == 0 != rows[-1].magnitude
    before, after = (np.load(run.clip(step_id(step), "p001", 0)).astype(int) for step in (0, 4))
    model: VideoModel = Foreign()
    prompts = load_prompts(tmp_path / "prompts.txt", None)
    config = SampleConfig(batch_size=2)
    generate = Generator(model, DDIMSampler(), prompts, config, image=None)
    plain = generate([(0, 0), (1, 0)], lambda _: None)[1].astype(int)
    assert before.shape == (4, 16, 16, 3)
    assert np.abs(plain - before).max() <= 1
    assert np.abs(after - before).max() > 1
    scores = read_scores(run.scores)
    assert {row.state for row in scores} == {step_id(0), step_id(4)}
    assert all(np.isfinite(row.value) for row in scores if row.value is not None)
    assert any(row.value is not None for row in scores)
    assert summarise(run.path).is_file()


def test_groups_are_those_the_user_names(values: dict[str, Any], tmp_path: Path):
    groups = {"early": "^words|^space", "late": r"^time\."}
    run = studied(values, RunDir(tmp_path / "run"), group="late", partition={"groups": groups})
    assert run.manifest().partition == {"early": WORDS + SPACE, "late": TIME}
    adapter = run.adapter(step_id(4)) / "adapter_model.safetensors"
    own = studied(values, RunDir(tmp_path / "own"), group="temporal")
    both = own.adapter(step_id(4)) / "adapter_model.safetensors"
    ours, theirs = load_file(adapter), load_file(both)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    clips = [[each.clip(step_id(step), "p001", 0) for each in (run, own)] for step in (0, 4)]
    assert [one.samefile(other) for one, other in clips] == [True, False]  # the untouched model is sampled once
    with pytest.raises(UserError, match="group is 'temporal'; allowed: early, late"):
        studied(values, RunDir(tmp_path / "no"), group="temporal", partition={"groups": groups})
    assert not (tmp_path / "no").exists()
