"""Fitting: exactly one group moves, the same bits whatever interrupts it, and every draw from (seed, step, place)."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fit_stills import SMALL, Stills, cut_after, setup, whole
from safetensors.torch import load_file
from torch import Tensor, nn

from perturb.data.images import Policy
from perturb.diffusion.loss import epsilon_loss
from perturb.errors import UserError
from perturb.loop.dropout import PlacedDropout
from perturb.models.partition import Partition
from perturb.models.videocrafter.system import VideoSystem
from perturb.perturbation import LoraPerturbation
from perturb.store.records import read_train
from perturb.store.rundir import RunDir
from perturb.store.states import step_id
from perturb.store.tensors import hash_modules, moved, summarise
from perturb.study.fit import FitConfig, Objective, fit
from perturb.study.fit_data import Batch, FitData
from perturb.study.fit_loss import ProbeLoss

PROBES = (0, 2, 4)


def run_fit(
    system: VideoSystem, path: Path, config: FitConfig = SMALL, group: str = "spatial", **changes: Any
) -> LoraPerturbation:
    lora = LoraPerturbation(rank=2, alpha=2.0, dropout=changes.pop("dropout", 0.1))
    images = changes.pop("images", None) or Stills()
    probes, own = changes.pop("probe_steps", PROBES), changes.pop("own_images", None)
    assert not changes
    fit(setup(system, images, config, own_images=own), lora, group=group, probe_steps=probes, run=RunDir(path))
    return lora


def contents(path: Path) -> dict[str, bytes]:
    """Every file that a fit leaves, but the manifest."""
    files = [*path.glob("adapters/*/*"), path / "train.csv"]
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in files}


def test_a_fit_is_what_is_written_out_by_hand_to_the_last_bit(tiny_system: VideoSystem, tmp_path: Path) -> None:
    run_fit(tiny_system, tmp_path, dropout=0.0).detach()
    lora = LoraPerturbation(rank=2, alpha=2.0)
    lora.attach(tiny_system.unet, Partition.of(tiny_system.unet), "spatial", SMALL.seed)
    optimiser = torch.optim.AdamW(lora.parameters(), weight_decay=0.0)
    data = FitData(tiny_system, Stills(), SMALL)
    for step in range(PROBES[-1]):
        optimiser.param_groups[0]["lr"] = SMALL.learning_rate * min(1.0, (step + 1) / SMALL.warmup_steps)
        batch = whole(data, step)
        optimiser.zero_grad()
        epsilon_loss(
            tiny_system.denoise, tiny_system.schedule, batch.x0, batch.t, batch.noise, batch.cond
        ).mean().backward()
        nn.utils.clip_grad_norm_(lora.parameters(), SMALL.gradient_clip)
        optimiser.step()
    lora.save(tmp_path / "by hand")
    by_hand, fitted = (
        load_file(folder / "adapter_model.safetensors")
        for folder in (tmp_path / "by hand", RunDir(tmp_path).adapter(step_id(4)))
    )
    assert by_hand.keys() == fitted.keys()
    assert all(torch.equal(fitted[name], value) for name, value in by_hand.items())


def test_every_state_has_its_loss_on_the_images_and_the_manifest_how_far_they_are(
    tiny_system: VideoSystem, tmp_path: Path
) -> None:
    lora = run_fit(tiny_system, tmp_path, own_images=Stills())
    run = RunDir(tmp_path)
    losses = [state.loss for state in run.states()]
    distance = run.manifest().distance
    assert distance["loss"] == distance["own_loss"] == losses[0]  # the same images, untouched
    assert (distance["ratio"], distance["stills"]) == (1.0, 5)
    assert losses[-1] == ProbeLoss(tiny_system, Stills(), SMALL)()
    lora.detach()
    assert losses[0] == ProbeLoss(tiny_system, Stills(), SMALL)() != losses[-1]

    loss = ProbeLoss(tiny_system, Stills(), SMALL)
    data = FitData(tiny_system, Stills(), replace(SMALL, text_dropout=0.0))
    by_hand = []
    for timestep in (100, 300, 500, 700, 900):
        for index in range(5):
            x0, noise, _, cond = data.sample("probe", timestep, index, index)
            with torch.no_grad():
                t = torch.tensor([timestep])
                by_hand.append(tiny_system.loss(Batch(x0[None], t, noise[None], cond)).item())
    assert loss() == pytest.approx(sum(by_hand) / len(by_hand), rel=1e-5)


def test_without_own_images_there_is_no_distance(tiny_system: VideoSystem, tmp_path: Path) -> None:
    run_fit(tiny_system, tmp_path, probe_steps=(0,))
    distance = RunDir(tmp_path).manifest().distance
    assert (distance["own_loss"], distance["ratio"], distance["reason"]) == (None, None, "own_images is not given")


def test_a_cosine_schedule_falls_to_nothing(tiny_system: VideoSystem, tmp_path: Path) -> None:
    run_fit(tiny_system, tmp_path, replace(SMALL, schedule="cosine"), probe_steps=(0, 4))
    rates = [row.learning_rate for row in read_train(tmp_path / "train.csv")[1:]]
    assert rates == pytest.approx([0.01 * f for f in (0.5, 0.8535534, 0.5, 0.1464466)])


@pytest.mark.parametrize("group", ["spatial", "temporal", "conditioning"])
def test_only_the_adapter_of_the_group_moves(tiny_system: VideoSystem, tmp_path: Path, group: str) -> None:
    before = hash_modules(tiny_system.modules())
    partition = Partition.of(tiny_system.unet)
    lora = run_fit(tiny_system, tmp_path, group=group, probe_steps=(0, 1))
    wrapped = {name for name, module in tiny_system.unet.named_modules() if hasattr(module, "base_layer")}
    assert wrapped == set(partition.layers(group))
    assert lora.magnitude().total > 0
    written = csv.DictReader((tmp_path / "adapters" / "step_000001" / "magnitude.csv").open())
    assert {row["layer"]: float(row["delta_ratio"]) for row in written} == lora.magnitude().per_layer
    assert min(lora.magnitude().per_layer.values()) > 0 or group == "temporal"  # t = 1: queries have nothing to choose
    lora.detach()
    assert hash_modules(tiny_system.modules()) == before
    manifest = RunDir(tmp_path).manifest()
    assert manifest.frozen == {"before": summarise(before), "after": summarise(before), "unchanged": True}
    assert manifest.perturbation["group"] == group
    assert manifest.perturbation["parameters"] == sum(p.numel() for p in _fresh(tiny_system, group).parameters())
    assert manifest.images["frames"] == 1


@pytest.mark.parametrize(("policy", "frames"), [("single_frame", 1), ("repeat", 3)])
def test_the_manifest_tells_seeds_and_policies_apart(
    tiny_system: VideoSystem, tmp_path: Path, policy: Policy, frames: int
) -> None:
    config = replace(SMALL, seed=7, frames=3)
    run_fit(tiny_system, tmp_path, config, "temporal", images=Stills(policy), probe_steps=(0,))
    manifest = RunDir(tmp_path).manifest()
    assert manifest.perturbation["kind"] == "lora"
    assert manifest.perturbation["group"] == "temporal"
    assert manifest.perturbation["seed"] == 7
    assert (manifest.images["as_video"], manifest.images["frames"]) == (policy, frames)


def _fresh(system: VideoSystem, group: str) -> LoraPerturbation:
    lora = LoraPerturbation(rank=2)
    lora.attach(system.unet, Partition.of(system.unet), group, 0)
    return lora


def test_a_tensor_that_moves_is_named(
    tiny_system: VideoSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Objective.forward

    def disturbing(self: Objective, batch: Batch) -> Tensor:
        with torch.no_grad():
            next(tiny_system.vae.parameters()).flatten()[0] += 1
        return real(self, batch)

    monkeypatch.setattr(Objective, "forward", disturbing)
    with pytest.raises(RuntimeError, match=r"1 tensors .*vae\."):
        run_fit(tiny_system, tmp_path, probe_steps=(1,))
    assert not RunDir(tmp_path).is_done("fit", "all")


def test_what_is_left_on_disk_and_a_finished_fit_only_attaches(tiny_system: VideoSystem, tmp_path: Path) -> None:
    lora = run_fit(tiny_system, tmp_path)
    fitted = [parameter.detach().clone() for parameter in lora.parameters()]
    rows = read_train(tmp_path / "train.csv")
    assert [row.step for row in rows] == [0, 1, 2, 3, 4]
    assert [row.step for row in rows if row.magnitude is not None] == [0, 2, 4]
    assert rows[0].magnitude == 0
    assert rows[-1].magnitude == lora.magnitude().total
    assert [row.learning_rate for row in rows[1:]] == [0.005, 0.01, 0.01, 0.01]
    assert sorted(path.name for path in (tmp_path / "adapters").iterdir()) == [f"step_00000{step}" for step in PROBES]
    assert not (tmp_path / "checkpoints").exists()
    before = contents(tmp_path)
    lora.detach()
    again = run_fit(tiny_system, tmp_path)
    assert contents(tmp_path) == before
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), fitted, strict=True))


def test_a_fit_stopped_anywhere_goes_on_to_the_same_bits(
    tiny_system: VideoSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_fit(tiny_system, tmp_path / "whole").detach()
    for left, kept in ((0, []), (1, []), (3, ["step_000003"])):  # the last one after a state that is no probe step
        with monkeypatch.context() as patch:
            cut_after(left, patch)
            with pytest.raises(KeyError, match="power cut"):
                run_fit(tiny_system, tmp_path / "cut")
        assert [path.name for path in (tmp_path / "cut" / "checkpoints").glob("step_*")] == kept
        torch.manual_seed(left)  # the global state has no say
    run_fit(tiny_system, tmp_path / "cut").detach()
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_the_state_of_another_fit_is_refused(
    tiny_system: VideoSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_after(2, monkeypatch)
    with pytest.raises(KeyError, match="power cut"):
        run_fit(tiny_system, tmp_path)
    with pytest.raises(UserError, match=r"other settings: fit was .*'learning_rate': 0\.01"):
        run_fit(tiny_system, tmp_path, replace(SMALL, learning_rate=0.5))
    with pytest.raises(UserError, match="dropout"):
        run_fit(tiny_system, tmp_path, dropout=0.0)


def test_a_loss_that_is_not_finite_stops_and_names_what_is_kept(
    tiny_system: VideoSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_fit(tiny_system, tmp_path / "whole").detach()
    real = Objective.forward
    losses = iter([1.0, 1.0, float("nan")])
    with monkeypatch.context() as patch:
        patch.setattr(Objective, "forward", lambda self, batch: real(self, batch) * next(losses))
        with pytest.raises(
            UserError, match=r"loss became nan at step 3; .*step_000002\. Lower fit\.learning_rate or use fit\."
        ):
            run_fit(tiny_system, tmp_path / "cut")
    assert not any("lora" in name for name, _ in tiny_system.unet.named_parameters())
    run_fit(tiny_system, tmp_path / "cut").detach()  # from the state that was kept
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_the_frozen_network_has_no_dropout_and_the_adapter_has(
    tiny_system: VideoSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Objective.forward
    modes: dict[str, set[bool]] = {"adapter": set(), "network": set()}

    def watching(self: Objective, batch: Batch) -> Tensor:
        for name, module in tiny_system.unet.named_modules():
            if isinstance(module, torch.nn.Dropout | PlacedDropout):
                modes["adapter" if "lora_dropout" in name else "network"].add(module.training)
        return real(self, batch)

    monkeypatch.setattr(Objective, "forward", watching)
    tiny_system.unet.train()
    run_fit(tiny_system, tmp_path, probe_steps=(1,))
    assert modes == {"adapter": {True}, "network": {False}}


def test_gradient_checkpointing_gives_the_same_adapter(tiny_system: VideoSystem, tmp_path: Path) -> None:
    plain = run_fit(tiny_system, tmp_path / "a", dropout=0.0, probe_steps=(1,))
    values = [parameter.detach().clone() for parameter in plain.parameters()]
    plain.detach()
    lora = run_fit(
        tiny_system, tmp_path / "b", replace(SMALL, gradient_checkpointing=True), dropout=0.0, probe_steps=(1,)
    )
    for value, parameter in zip(values, lora.parameters(), strict=True):
        torch.testing.assert_close(parameter.detach(), value, atol=1e-5, rtol=1e-3)
    assert not tiny_system.unet.gradient_checkpointing


def test_bfloat16_keeps_the_adapter_in_float32_and_stays_near(tiny_system: VideoSystem, tmp_path: Path) -> None:
    run_fit(tiny_system, tmp_path / "a", probe_steps=(2,)).detach()
    lora = run_fit(tiny_system, tmp_path / "b", replace(SMALL, precision="bfloat16"), probe_steps=(2,))
    assert {parameter.dtype for parameter in lora.parameters()} == {torch.float32}
    exact, rough = (read_train(tmp_path / name / "train.csv")[-1] for name in "ab")
    assert exact.loss != rough.loss
    assert rough.loss == pytest.approx(exact.loss, rel=0.05)


@torch.no_grad()
def _loss_of(system: VideoSystem, batch: Batch) -> float:
    return Objective(system)(batch).mean().item()


def test_fitting_lowers_the_loss(tiny_system: VideoSystem, tmp_path: Path) -> None:
    config = replace(SMALL, batch_size=4)
    batch = whole(FitData(tiny_system, Stills(), config), 0)
    before = _loss_of(tiny_system, batch)
    lora = run_fit(tiny_system, tmp_path, config, probe_steps=(0, 6))
    assert _loss_of(tiny_system, batch) < 0.95 * before
    lora.load(RunDir(tmp_path).adapter(step_id(0)))
    assert _loss_of(tiny_system, batch) == pytest.approx(before, rel=1e-6)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"warmup_steps": -1}, "warmup_steps"),
        ({"gradient_clip": 0.0}, "gradient_clip"),
        ({"text_dropout": 1.5}, "text_dropout"),
        ({"precision": "float16"}, "float32, bfloat16"),
        ({"frames": 0}, "frames"),
    ],
)
def test_settings_out_of_range_are_named(change: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named):
        FitConfig(**change)


@pytest.mark.parametrize("probes", [(), (-1, 3)])
def test_probe_steps_that_cannot_be(tiny_system: VideoSystem, tmp_path: Path, probes: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="probe_steps"):
        run_fit(tiny_system, tmp_path, probe_steps=probes)


def test_a_batch_that_processes_cannot_share_is_named(
    tiny_system: VideoSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perturb.study.fit.make_accelerator", lambda *_, **__: SimpleNamespace(num_processes=4))
    with pytest.raises(UserError, match=r"fit\.batch_size is 2; allowed with 4 processes: its multiples"):
        run_fit(tiny_system, tmp_path)


def test_hashes_see_one_bit_and_a_changed_shape(tiny_system: VideoSystem) -> None:
    before = hash_modules(tiny_system.modules())
    weight = tiny_system.unet.conv_in.weight
    with torch.no_grad():
        weight.view(torch.int32).flatten()[0] ^= 1
    assert moved(before, hash_modules(tiny_system.modules())) == ["unet.conv_in.weight"]
    assert json.dumps(summarise(before))
