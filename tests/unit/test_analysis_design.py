"""Runs that are one study are sorted into cells; any others are refused with what is wrong and where."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from analysis_run import edit
from coupling_runs import CONDITIONS, STEPS, Key, make_pairs, make_run, make_study, motion

from perturb.analysis.coupling.design import Cell, Condition, Design
from perturb.analysis.load import find_runs, load
from perturb.errors import UserError
from perturb.store.rundir import RunDir

FULL, PARTIAL = (Key(training, "spatial", "single_frame", "lora", 0) for training in ("full", "partial"))


def study(root: Path) -> Design:
    return Design.of(load(find_runs([root])))


Spoil = Callable[[dict[Key, RunDir]], object]


def manifest(key: Key, change: Callable[[dict[str, Any]], object]) -> Spoil:
    def spoil(runs: dict[Key, RunDir]) -> None:
        values = json.loads(runs[key].manifest_path.read_text())
        change(values)
        runs[key].manifest_path.write_text(json.dumps(values))

    return spoil


def scores(key: Key, old: str, new: str) -> Spoil:
    return lambda runs: edit(runs[key].scores, old, new, count=-1)


CONTROL = Key("full", "spatial", "single_frame", "random", 0)
SECOND = Key("full", "spatial", "single_frame", "random", 1)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda runs: runs[PARTIAL].manifest_path.unlink(),
            "random control of run",
        ),
        (lambda runs: make_run(runs[FULL].path.parent, FULL, steps=(0, 100)), "same run"),
        (
            manifest(PARTIAL, lambda m: m["prompts"].update(p001="a blue circle")),
            "differ in their prompts: .*blue circle",
        ),
        (manifest(PARTIAL, lambda m: m["clips"].update(height=32)), "differ in their clip settings"),
        (scores(PARTIAL, ",p002,0,", ",p002,4,"), r"differ in their prompts and noise seeds: .*\('p002', 4\)"),
        (
            manifest(SECOND, lambda m: m["system"].update(sha256="other")),
            r"differ in their checkpoint of the full model \(name pairs",
        ),
        (
            manifest(FULL, lambda m: m["perturbation"].update(kind="direct")),
            "its perturbation is 'direct'.*lora, random",
        ),
        (manifest(FULL, lambda m: m.update(images={})), "policy for stills .images.as_video. is None"),
        (scores(FULL, ",spatial,", ",both,"), "group both, the run|its group is 'both'"),
        (manifest(FULL, lambda m: m["metrics"].append({**m["metrics"][0], "name": "x"})), "differ in their metrics"),
        (
            lambda runs: edit(runs[CONTROL].states_path, ",0.08,", ",0.07,"),
            "step 100 is 0.07, that of its reference 0.08",
        ),
        (lambda runs: edit(runs[FULL].states_path, ",0.08,", ',"",'), r"no ‖Δ‖/‖θ‖ at the probe steps \[100\]"),
        (scores(SECOND, ",spatial,1,", ",spatial,0,"), "has lora_seed 0, the run .* has 1. Make the control with"),
    ],
)
def test_what_is_no_study_is_refused(tmp_path: Path, spoil: Spoil, message: str) -> None:
    spoil(make_study(tmp_path, lambda key: key.group == "spatial"))
    with pytest.raises(UserError, match=message):
        study(tmp_path)


def test_a_model_without_its_twin_is_no_study(tmp_path: Path) -> None:
    make_study(tmp_path, lambda key: key.kind == "lora" and key.seed == (key.training == "full"))
    with pytest.raises(UserError, match=r"No pair of twins.*full · spatial · single_frame · lora · seeds \[1\]"):
        study(tmp_path)


def test_a_pair_counts_with_the_seeds_that_both_of_its_models_have(tmp_path: Path) -> None:
    runs = make_pairs(tmp_path, ["low", "high"], motion)
    for key, run in runs.items():
        alone = (key.pair, key.training, key.images) == ("pair1", "partial", "high")
        odd = (key.pair, key.training, key.images, key.seed) == ("pair2", "full", "high", 1)
        if alone or odd:
            run.manifest_path.unlink()
    found = study(tmp_path)
    low, high = (Condition("spatial", "single_frame", name) for name in ("low", "high"))
    assert found.twins(low) == {f"pair{k}": (0, 1) for k in range(3)}
    assert found.twins(high) == {"pair0": (0, 1), "pair2": (0,)}


def test_one_pair_under_two_names_is_not_two(tmp_path: Path) -> None:
    runs = make_pairs(tmp_path, ["low"], motion, pairs=2)
    for key, run in runs.items():
        run.update_manifest(system={"sha256": f"weights of {key.training}", "pair": key.pair})
    with pytest.raises(UserError, match="the pairs 'pair0' and 'pair1' have one full checkpoint"):
        study(tmp_path)


def test_pairs_of_different_checkpoints_need_names(tmp_path: Path) -> None:
    for run in make_pairs(tmp_path, ["low"], motion, pairs=2).values():
        values = json.loads(run.manifest_path.read_text())
        del values["system"]["pair"]
        run.manifest_path.write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"with LoRA seed \d of one pair.*pair=NAME"):
        study(tmp_path)


def test_mixed_probe_steps(tmp_path: Path) -> None:
    make_run(tmp_path, FULL)
    make_run(tmp_path, PARTIAL, steps=(0, 20, 100))
    with pytest.raises(UserError, match=r"differ in their probe steps: \[20\] and \[50\]"):
        study(tmp_path)


def test_without_a_start(tmp_path: Path) -> None:
    for key in (FULL, PARTIAL):
        make_run(tmp_path, key, steps=STEPS[1:])
    with pytest.raises(UserError, match=r"scored at the steps \[50, 100\]; a study needs step 0"):
        study(tmp_path)


def test_two_runs_in_one_cell(tmp_path: Path) -> None:
    runs = make_study(tmp_path, lambda key: key.kind == "lora" and key.group == "spatial")
    first = Key("full", "spatial", "single_frame", "lora", 1)
    edit(runs[first].scores, ",spatial,1,", ",spatial,0,", count=-1)
    with pytest.raises(UserError, match="both full · spatial · single_frame · lora with LoRA seed 0 of one pair"):
        study(tmp_path)


def test_names() -> None:
    assert str(Cell("full", Condition("temporal", "repeat"), "lora")) == "full · temporal · repeat · lora"
    assert [str(Condition(*names)) for names in (*CONDITIONS, ("spatial", "repeat"))] == [
        "spatial",
        "temporal, single frame",
        "temporal, repeat",
        "spatial, repeat",
    ]
    assert str(Condition("spatial", "single_frame", "perturb.world, web grade")) == "spatial, web grade"
