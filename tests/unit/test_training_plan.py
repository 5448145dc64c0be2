"""What plan=true says of a training, against the networks themselves."""

import re
import time
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from perturb.cli.plan import (
    CPU_FLOP,
    given,
    gradient_cost,
    measured_seconds,
    print_plan,
    print_training_plan,
    stage_shape,
    state_memory,
    trained_names,
)
from perturb.errors import UserError
from perturb.models.partition import Partition
from perturb.models.videocrafter.checkpoint import empty_system
from perturb.models.videocrafter.published import SPECS
from perturb.models.videocrafter.skeleton import skeleton
from perturb.store.paths import conf_dir
from perturb.structured import read
from perturb.training.config import TrainConfig


def composed(*overrides: str, config_name: str = "train") -> dict[str, Any]:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        values = OmegaConf.to_container(compose(config_name, overrides=list(overrides)), resolve=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


@pytest.mark.parametrize(
    ("recipe", "groups"), [("full", ("spatial", "temporal", "conditioning")), ("partial", ("temporal",))]
)
def test_state_memory_is_that_of_the_parameters(recipe: str, groups: tuple[str, ...]):
    config = read(TrainConfig, given(composed(f"experiment=train/{recipe}", "plan_processes=8")))
    assert (config.trained is not None, config.init_spec) == (True, "t2v_512_v2")
    spec = SPECS["t2v_512_v2"]
    system = empty_system(None, "t2v_512_v2")
    memory = state_memory(config, system, trained_names(system, config.trained))  # pyright: ignore[reportArgumentType]

    parts = skeleton(spec)
    sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
    partition = Partition.of(parts["unet"])
    trained = sum(partition.count(group) for group in groups)
    if recipe == "partial":
        trained += sum(p.numel() for name, p in parts["unet"].named_parameters() if name.startswith("fps_embedding"))
    assert memory["weights"] == 4 * sizes["unet"] / 8
    assert memory["gradients"] == memory["average"] == 4 * trained / 8
    assert memory["optimiser"] == 8 * trained / 8
    assert memory["encoders"] == 4 * (sizes["vae"] + sizes["text_encoder"])
    assert 1.3e9 < sizes["unet"] < 1.5e9
    assert 0 < memory["gathered"] < 2 * sizes["unet"] / 5


def test_an_init_that_is_not_trained_yet_is_named():
    values = composed("experiment=train/nano_full", "init=runs/absent")
    with pytest.raises(UserError, match=r"init=runs/absent is no folder of ours \(is it trained yet\?\); give init"):
        print_training_plan(values)


def test_the_published_scale_is_three_stages():
    config = read(TrainConfig, given(composed("experiment=train/full")))
    stages = [(s.height, s.width, s.batch_size, s.steps) for s in config.stages]
    assert stages == [(256, 256, 256, 80_000), (320, 512, 128, 136_000), (576, 1024, 64, 45_000)]


def test_activations_shrink_with_checkpointing_and_grow_with_frames():
    config = read(TrainConfig, composed("experiment=train/nano_full", "init=package:weights/nano/image"))
    still = read(TrainConfig, composed("experiment=train/nano_direct_spatial"))
    assert config.trained is not None
    system = empty_system(str(config.init))
    trained_names(system, config.trained)
    clip, image = (stage_shape(c, system, c.stages[0]) for c in (config, still))
    assert (clip, image) == ((4, 8, 8, 8), (4, 1, 8, 8))
    without, with_ = (gradient_cost(system, clip, fps=8, checkpointing=flag).kept for flag in (False, True))
    assert without / len(list(system.unet.blocks())) < with_ < without / 2
    assert gradient_cost(system, image, fps=8, checkpointing=False).kept < without / 7


def test_time_is_that_of_the_second_step_or_not_given(monkeypatch: pytest.MonkeyPatch):
    clock = iter([100.0, 103.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    steps: list[int] = []
    assert measured_seconds("cpu", CPU_FLOP, lambda: lambda: steps.append(1)) == 3
    assert len(steps) == 2
    refused = measured_seconds("cpu", 2 * CPU_FLOP, lambda: pytest.fail("was tried"))
    assert refused == "not measured: one step is 10 TFLOP, minutes on a CPU"

    def too_large() -> None:
        raise torch.OutOfMemoryError

    assert "does not fit into the memory" in str(measured_seconds("cpu", 0, lambda: too_large))


def test_a_plan_of_a_training_is_printed(capsys: pytest.CaptureFixture[str]):
    print_training_plan(
        composed("experiment=train/nano_lora_both", "plan_processes=2", "stages=[{steps:300,batch_size:4}]")
    )
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.replace("stage 1: ", "").splitlines())
    assert lines["processes"] == "2, each with all weights"
    assert "with checkpointing" in lines["activations"]
    assert re.search(r": 300 steps of [\d.e-]+ s$", lines["time"])


def test_a_study_of_groups_that_the_user_names_is_planned(capsys: pytest.CaptureFixture[str]):
    groups = "partition.groups={time:temporal,rest:'^(?!.*temporal)'}"
    print_plan(composed(groups, "group=time", "prompts.limit=1", "probe_steps=[0,1]", config_name="config"))
    lines = dict(re.split(r"  +", line, maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["study"] == "time_full: the time group of nano, trained full"
    assert {name for name in lines if name.startswith("θ")} == {"θ time", "θ rest"}
    assert lines["time to fit"].endswith(" s")


def test_a_study_too_large_for_a_cpu_has_no_time(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    print_plan(composed("system=videocrafter2", "prompts.limit=3", config_name="config"))
    out = capsys.readouterr().out
    assert re.search(r"time to fit +not measured: one step is [\d,.]+ TFLOP, minutes on a CPU", out)
    assert re.search(r"time to sample +not measured: one step is [\d,.]+ TFLOP", out)
    # a GPU took 12.6 and 12.0, the former when a still went through temporal layers, the latter without an adapter
    # (experiments/gpu), whose θ_S + Δ is 3.2 beside θ_S (experiments/full_size)
    assert "about 8.66 GiB to fit, 15.1 GiB to sample" in out
    assert "measured  " not in out
    assert "system.checkpoint=…  is not given" in out
