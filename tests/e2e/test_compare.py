"""The commands on adapters, as a user runs them: compare ranks them, and partition names what they may touch."""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from perturb.models.videocrafter.system import VideoSystem
from perturb.perturbation import LoraPerturbation
from perturb.store.rundir import RunDir
from tests.e2e.conftest import Commands


def kohya(folder: Path, path: Path) -> Path:
    """The adapter of a run as kohya would write it."""
    tensors = {}
    for key, value in load_file(folder / "adapter_model.safetensors").items():
        layer, _, kind = key.removeprefix("base_model.model.").rpartition(".lora_")
        stem = f"lora_unet_{layer.replace('.', '_')}"
        tensors[f"{stem}.lora_{'down' if kind[0] == 'A' else 'up'}.weight"] = value
        tensors[f"{stem}.alpha"] = torch.tensor(8.0)
    save_file(tensors, path)
    return path


def fitted(system: VideoSystem, folder: Path) -> Path:
    """A LoRA on the space of a model, strong enough to be seen."""
    lora = LoraPerturbation(rank=2, alpha=8.0)
    lora.attach(system.unet, system.partition(), "spatial", 0)
    with torch.no_grad():
        for _, b in lora.factors().values():
            b.normal_(std=0.1)
    lora.save(folder)
    lora.detach()
    return folder


def test_compare_samples_scores_and_ranks(
    commands: Commands, checkpoint: Path, inputs: Path, tiny_system: VideoSystem, tmp_path: Path
):
    late = fitted(tiny_system, tmp_path / "late")
    given = [
        f"system.checkpoint={checkpoint}", f"prompts.file={inputs / 'prompts.txt'}", "sample.batch_size=2",
        "sampler.steps=2", f"runs_dir={tmp_path / 'runs'}",
    ]  # fmt: skip
    adapters = f"adapters={late},{kohya(late, tmp_path / 'same.safetensors')}"
    outcome = commands("perturb.compare", *given, adapters)
    assert outcome.code == 0, outcome.log
    assert "Adapters on the full model, by motion kept and look gained" in outcome.log
    (path,) = (tmp_path / "runs").glob("compare/*")
    run = RunDir(path)
    assert [state.label for state in run.states()] == ["none", "late", "same"]
    none, first, same = (np.load(run.clip(state.id, "p001", 0)).astype(int) for state in run.states())
    assert np.array_equal(first, same)  # one adapter in two formats
    assert np.abs(first - none).max() > 1
    manifest = run.manifest()
    assert manifest.images == {}
    touched = manifest.perturbation["touched"]
    assert touched["late"] == touched["same"]
    assert touched["late"].keys() == {"spatial"}
    page = (path / "report.html").read_text()
    assert "<h2>Ranking</h2>" in page
    assert str(tmp_path) not in page
    assert (path / "figures" / "ranking.csv").is_file()
    again = commands("perturb.compare", *given, adapters)
    assert (again.code, again.log.splitlines()[-2:]) == (0, outcome.log.splitlines()[-2:])

    planned = commands("perturb.compare", *given, adapters, "plan=true")
    assert planned.code == 0, planned.log
    assert "4 prompts × 1 noise × 3 states" in planned.log
    nothing = commands("perturb.compare", *given)
    assert nothing.code == 2
    assert "adapters=…  is not given: a list of adapters to compare" in nothing.log
    other = tmp_path / "other.safetensors"
    save_file({f"lora_unet_x.lora_{end}.weight": torch.ones(1, 1) for end in ("down", "up")}, other)
    refused = commands("perturb.compare", *given, f"adapters={late},{other}")
    assert refused.code == 2
    assert "1 of its 1 layers are not here, e.g. 'lora_unet_x' (nearest here: " in refused.log
    assert "Traceback" not in nothing.log + refused.log


def test_partition_counts_names_and_writes(commands: Commands, checkpoint: Path, tmp_path: Path):
    system = f"system.checkpoint={checkpoint}"
    table = commands("perturb.partition", system)
    assert table.code == 0, table.log
    assert [line.split()[0] for line in table.log.splitlines()] == [
        "group", "spatial", "temporal", "conditioning", "image", "all"
    ]  # fmt: skip
    names = commands("perturb.partition", system, "group=temporal", "names=official")
    assert "input_blocks.1.0.temopral_conv.conv1.2.weight" in names.log.splitlines()
    written = commands("perturb.partition", system, f"output={tmp_path / 'groups.json'}")
    assert written.code == 0, written.log
    assert json.loads((tmp_path / "groups.json").read_text())["conditioning"][0] == "time_embedding.expand.weight"
    helped = commands("perturb.partition", "--help")
    assert "list for training code of your own" in helped.log
