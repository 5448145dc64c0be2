"""What plan=true says of a training, against the networks themselves."""

from dataclasses import asdict
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from perturb.cli.training_plan import _given, architecture, meta_system, print_training_plan, stage_cost, state_memory
from perturb.errors import UserError
from perturb.models.partition import Partition
from perturb.models.videocrafter.skeleton import skeleton
from perturb.models.videocrafter.spec import SPECS
from perturb.store.paths import conf_dir
from perturb.structured import read
from perturb.training.config import TrainConfig


def composed(*overrides: str) -> dict[str, Any]:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        values = OmegaConf.to_container(compose("train", overrides=list(overrides)), resolve=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


@pytest.mark.parametrize(
    ("recipe", "groups"), [("full", ("spatial", "temporal", "conditioning")), ("partial", ("temporal",))]
)
def test_state_memory_is_that_of_the_parameters(recipe: str, groups: tuple[str, ...]):
    config = read(TrainConfig, _given(composed(f"experiment=train/{recipe}", "plan_processes=8")))
    spec = architecture(config)
    assert spec is SPECS["t2v_512_v2"]
    assert config.trained is not None
    memory = state_memory(config, *meta_system(spec, config.trained))

    parts = skeleton(spec)
    sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
    partition = Partition.of(parts["unet"])
    trained = sum(partition.count(group) for group in groups)
    if recipe == "partial":
        trained += sum(p.numel() for name, p in parts["unet"].named_parameters() if name.startswith("fps_embedding"))
    assert memory.weights == 4 * sizes["unet"] / 8
    assert memory.gradients == memory.average == 4 * trained / 8
    assert memory.optimiser == 8 * trained / 8
    assert memory.encoders == 4 * (sizes["vae"] + sizes["text_encoder"])
    assert 1.3e9 < sizes["unet"] < 1.5e9
    assert 0 < memory.gathered < 2 * sizes["unet"] / 5
    assert memory.total == sum(asdict(memory).values())


def test_an_init_that_is_not_trained_yet_is_named():
    values = composed("experiment=train/nano_full", "init=runs/absent")
    with pytest.raises(UserError, match=r"init=runs/absent is no folder of ours \(is it trained yet\?\); give init"):
        print_training_plan(values)


def test_the_published_scale_is_three_stages():
    config = read(TrainConfig, _given(composed("experiment=train/full")))
    stages = [(s.height, s.width, s.batch_size, s.steps) for s in config.stages]
    assert stages == [(256, 256, 256, 80_000), (320, 512, 128, 136_000), (576, 1024, 64, 45_000)]


def test_activations_shrink_with_checkpointing_and_grow_with_frames():
    config = read(TrainConfig, composed("experiment=train/nano_full", "init=package:weights/nano/image"))
    assert config.trained is not None
    system, _ = meta_system(architecture(config), config.trained)
    cost = stage_cost(config, system, config.stages[0])
    assert cost.tokens == 8 * 8 * 8
    assert cost.kept[False] / len(list(system.unet.blocks())) < cost.kept[True] < cost.kept[False] / 2
    still = read(TrainConfig, composed("experiment=train/nano_direct_spatial"))
    assert stage_cost(still, system, still.stages[0]).kept[False] < cost.kept[False] / 7


def test_a_plan_is_printed_and_leaves_nothing_behind(capsys: pytest.CaptureFixture[str]):
    print_training_plan(composed("experiment=train/nano_lora_both", "plan_processes=2"))
    printed = capsys.readouterr().out
    for words in ("lora_both of nano", "2, each with all weights", "activations", "with checkpointing", "tokens/s"):
        assert words in printed
