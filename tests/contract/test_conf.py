"""Every yaml of conf/ composes, is valid, and builds what it names."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image

from perturb.cli.config import GenerateConfig, NamesConfig, RunConfig, empty, load
from perturb.cli.plan import needed
from perturb.data.prompts import load_prompts
from perturb.errors import UserError
from perturb.models.animatediff.spec import SPECS as ANIMATEDIFF
from perturb.models.videocrafter.published import SPECS
from perturb.models.videocrafter.system import VideoSystem
from perturb.sample import STUDY_ONLY
from perturb.store.paths import conf_dir, resolve
from perturb.structured import build, read

CONF = conf_dir()
GROUPS = sorted(
    folder.name for folder in CONF.iterdir() if folder.is_dir() and folder.name not in ("hydra", "__pycache__")
)
CHOICES = [(group, path.stem) for group in GROUPS for path in sorted((CONF / group).glob("*.yaml"))]
TRAININGS = sorted(path.stem for path in (CONF / "experiment" / "train").glob("*.yaml"))
PUBLISHED = [name for group, name in CHOICES if group == "system" and not name.startswith("nano")]
NANO = [name for group, name in CHOICES if group == "system" and name.startswith("nano")]


def composed(config_name: str, *overrides: str) -> dict[str, Any]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(config_name, overrides=list(overrides))
    values = OmegaConf.to_container(config, resolve=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "black.png")
    (tmp_path / "black.txt").write_text("a black square")
    return tmp_path


@pytest.mark.parametrize(("group", "name"), CHOICES)
def test_every_choice_is_a_valid_study(group: str, name: str):
    config = read(RunConfig, composed("config", f"{group}={name}"))
    assert config.name.startswith(f"{config.group}_{config.training}")


@pytest.mark.parametrize(("group", "name"), [c for c in CHOICES if c[0] in ("perturbation", "sampler", "metrics")])
def test_every_plain_seam_builds(group: str, name: str):
    seam = composed("config", f"{group}={name}")[group]
    if "???" in seam.values():
        with pytest.raises(UserError, match=rf"{group}\.\w+: missing for "):
            build(group, seam)
        given = {key: ["somewhere"] if key == "adapters" else "somewhere" for key in seam}
        seam = {key: given[key] if value == "???" else value for key, value in seam.items()}
    assert build(group, seam) is not None


def test_every_image_set_builds(image_folder: Path):
    folder = build("images", composed("config", "images=folder", f"images.folder={image_folder}")["images"])
    shapes = build("images", composed("config", "images=shapes", "images.count=2")["images"])
    for images in (folder, shapes):
        pixels = images.load(0, 64, 64)
        assert pixels.shape == (3, 64, 64)
        assert -1 <= pixels.min() <= pixels.max() <= 1
        assert images.caption(0)
        assert images.as_video == "single_frame"
        assert images.describe()["count"] == len(images)


def test_the_shipped_prompts_are_32_different_ones():
    prompts = load_prompts(composed("config")["prompts"]["file"])
    assert len({prompt.text for prompt in prompts}) == len(prompts) == 32


def test_a_pipeline_of_diffusers_needs_its_folder_where_others_need_a_checkpoint():
    lacking = [line.partition("=")[0] for line in needed(composed("config", "system=diffusers"), takes_image=False)]
    assert lacking == ["system.pipeline", "images.folder", "prompts.file"]


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name != "diffusers"])  # whose folder says what it is
def test_published_systems_bring_their_spec_and_nothing_of_the_embedded_world(name: str):
    values = composed("config", f"system={name}")
    model = empty(read(RunConfig, values).system, "meta")
    assert model.name in SPECS | ANIMATEDIFF
    missing = [values["system"]["checkpoint"], values["images"]["folder"], values["prompts"]["file"]]
    assert missing == ["???"] * 3
    lacking = [line.partition("=")[0] for line in needed(values, takes_image=model.takes_image)]
    image = ["image"] if model.takes_image else []
    second = ["system.unet"] if name.startswith("t2v_turbo") else ["system.motion"] if name == "animatediff" else []
    assert lacking == ["system.checkpoint", *second, "images.folder", "prompts.file", *image]


@pytest.mark.parametrize("name", NANO)
def test_shipped_systems_load(name: str):
    system = composed("config", f"system={name}")["system"]
    if not resolve(system["checkpoint"]).exists():
        pytest.skip(f"{system['checkpoint']} is not trained yet")
    loaded = load(system)
    assert isinstance(loaded, VideoSystem)
    assert loaded.spec.unet.temporal_conv


def test_experiments_say_what_they_perturb():
    for group in ("spatial", "temporal"):
        for training in ("full", "partial"):
            values = composed("config", f"experiment={group}_{training}")
            assert (values["group"], values["training"], values["name"]) == (group, training, f"{group}_{training}")
            assert values["system"]["checkpoint"].endswith(training)


def test_what_is_not_fitted_has_no_probe_steps():
    values = composed("config", "experiment=landscape_partial")
    assert (values["training"], values["group"], values["probe_steps"]) == ("partial", "both", None)
    assert len(build("perturbation", values["perturbation"]).states()) == 25
    ablation = composed("config", "experiment=ablation", "group=temporal", "system=nano_partial")
    assert (ablation["name"], ablation["probe_steps"]) == ("temporal_partial_ablation", None)
    for name in ("random", "adapters", "trained"):
        assert composed("config", "system=videocrafter2", f"perturbation={name}")["probe_steps"] is None
    assert composed("config", "perturbation=direct")["probe_steps"][0] == 0


def test_the_command_line_wins_over_the_experiment():
    values = composed("config", "experiment=spatial_partial", "system=videocrafter2", "images=shapes")
    assert values["system"]["spec"] == "t2v_512_v2"
    assert values["name"] == "spatial_full"
    assert values["images"]["_target_"].endswith("GradeStills")


@pytest.mark.parametrize("name", [*NANO, *PUBLISHED])
def test_plain_generation_takes_every_system(name: str):
    values = composed("generate", f"system={name}", "prompt=x")
    assert read(GenerateConfig, {k: v for k, v in values.items() if k not in STUDY_ONLY}).prompt == "x"


@pytest.mark.parametrize("name", [name for group, name in CHOICES if group == "system"])
def test_comparing_adapters_and_naming_tensors_take_every_system(name: str):
    known = {field.name for field in dataclasses.fields(RunConfig)}
    assert composed("compare", f"system={name}", "adapters=[a]").keys() - known == {"adapters"}
    values = composed("partition", f"system={name}")
    asked = {field.name: values[field.name] for field in dataclasses.fields(NamesConfig)}
    assert read(NamesConfig, asked).names == "checkpoint"


@pytest.mark.parametrize("name", TRAININGS)
def test_every_training_composes(name: str):
    assert composed("train", f"experiment=train/{name}")["recipe"] != "???"
