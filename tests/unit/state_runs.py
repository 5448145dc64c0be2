"""Made-up landscapes and ablations, with values simple enough to work everything out by hand."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from perturb.store.records import SET_PROMPT, SET_SEED, ScoreRow, scores_csv
from perturb.store.rundir import RunDir, write_atomic
from perturb.store.states import State

PROMPTS = {"p000": "a red circle", "p001": "a blue star", "p002": "a cyan square"}
METRICS = (  # name, axis
    ("motion_quality", "motion"),
    ("colourfulness", "visual"),
    ("watermark", "visual"),
)
SCALES = (0.0, 0.5, 1.0)
CELLS = tuple({"spatial": s, "temporal": t} for s in SCALES for t in SCALES)
PARTS = ("none", "all", "down", "down attention", "attention")
COST = {"none": 0.0, "all": 0.4, "down": 0.1, "down attention": 0.0, "attention": 0.05}
PLACES = {  # layer: block, level, role, ‖Δ‖/‖θ‖, ‖θ‖
    "a": ("down", "down.0", "convolution", 0.1, 10.0),
    "b": ("down", "down.0", "convolution", 0.2, 10.0),
    "c": ("down", "down.1", "query", 0.5, 2.0),
    "d": ("up", "up.0", "convolution", 2.0, 1.0),
}


def make_run(
    root: Path, cells: Sequence[Mapping[str, Any]], value: Callable[[int, int, str], float], **perturbation: Any
) -> RunDir:
    """One run directory with a state of each of these coordinates; ``value`` of (its number, prompt, metric)."""
    kind, training, group, seed = (perturbation[name] for name in ("kind", "training", "group", "seed"))
    run_id = f"{kind}-{training}-{group}-{seed}"
    run = RunDir(root / f"{group}_{training}_{kind}" / run_id)
    labels = (run_id, training, group, seed)
    states = [State.of(cell, 0.01 * k) for k, cell in enumerate(cells)]
    rows = [
        ScoreRow(*labels, state.id, prompt, 0, metric, value(k, i, metric))
        for k, state in enumerate(states)
        for i, prompt in enumerate(PROMPTS)
        for metric in ("motion_quality", "colourfulness")
    ]
    rows += [ScoreRow(*labels, state.id, SET_PROMPT, SET_SEED, "watermark", 0.1) for state in states]
    run.write_states(states)
    write_atomic(run.scores, scores_csv(rows, [state.id for state in states]))
    run.update_manifest(
        run_id=run_id,
        experiment=f"{group}_{training}_{kind}",
        system={"spec": "nano", "training": training},
        perturbation={"step": 100, **perturbation},
        prompts=PROMPTS,
        clips={"height": 64, "seeds": [0]},
        metrics=[{"name": n, "axis": a, "unit": "1", "range": [0, None], "direction": "up"} for n, a in METRICS],
    )
    return run


def landscape(root: Path, training: str, seed: int = 0, cells: Sequence[Mapping[str, Any]] = CELLS) -> RunDir:
    """Y = 1 − 0.3 α_S − 0.1 α_T − c α_S α_T with c = 0.1, 0.2, 0.3 by prompt, 0.02 more in the second seed.

    The partial model has c = 0: there the two add up.
    """

    def value(k: int, i: int, metric: str) -> float:
        s, t = cells[k]["spatial"], cells[k]["temporal"]
        if metric == "colourfulness":
            return 30.0 + i + 20 * s + 5 * t
        c = (0.1 * (i + 1) + 0.02 * seed) if training == "full" else 0.0
        return 1.0 - 0.3 * s - 0.1 * t - c * s * t

    return make_run(root, cells, value, kind="landscape", training=training, group="both", seed=seed)


def ablation(root: Path, training: str, group: str = "spatial", seed: int = 0, parts: Sequence[str] = PARTS) -> RunDir:
    """Motion starts at .5, .6, .7 and falls by `COST`, in the full model by a tenth of .1, .2, .3 less under "all"."""

    def value(k: int, i: int, metric: str) -> float:
        if metric == "colourfulness":
            return 30.0 + i
        return 0.5 + 0.1 * i - COST[parts[k]] + (parts[k] == "all" and training == "full") * 0.01 * (i + 1)

    places = {layer: {"block": b, "level": v, "kind": r, "role": r} for layer, (b, v, r, *_) in PLACES.items()}
    run = make_run(
        root, [{"part": part} for part in parts], value, kind="ablation", training=training, group=group, seed=seed,
        places=places,
    )  # fmt: skip
    if "all" in parts:
        lines = [f"{layer},{ratio},{base}" for layer, (*_, ratio, base) in PLACES.items()]
        write_atomic(
            run.adapter("part_all") / "magnitude.csv", "\n".join(["layer,delta_ratio,base_norm", *lines]) + "\n"
        )
    return run
