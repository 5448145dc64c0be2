"""What README and experiments/ say is what their committed tables give, by whoever computes it again.

A claim is a piece of a README with # for every number, and what each of them should be. Numbers are compared to the
digits that are printed.
"""

import dataclasses
import re
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from perturb.analysis.coupling.design import Condition
from perturb.analysis.coupling.fits import times
from perturb.analysis.statistics.crossed import crossed_interval
from perturb.analysis.statistics.endpoints import (
    CONVERGED,
    Decision,
    Horizon,
    PairEndpoints,
    ahead,
    along,
    decide,
    kept,
)
from perturb.analysis.statistics.endpoints import Path as Model
from perturb.analysis.statistics.estimates import Estimate, mean_interval
from perturb.analysis.table import cell, number

ROOT = Path(__file__).parents[2] / "experiments"
NUMBER = r"([+−]?(?:\d+(?:\.\d+)?|\.\d+))"
Claim = tuple[str, Sequence[float]]
pytestmark = pytest.mark.skipif(not ROOT.is_dir(), reason="experiments/ is not part of an installed package")


def table(name: str) -> Any:  # a frame, whose columns no type knows
    return pd.read_csv(ROOT / name, keep_default_na=False, na_values=[""], low_memory=False)


def readme(folder: str) -> str:
    return " ".join((ROOT / folder / "README.md").read_text(encoding="utf-8").split())


def says(folder: str, claim: Claim) -> None:
    """Find the claim in the README of a folder and compare its numbers with those computed."""
    text, computed = claim
    found = re.search(NUMBER.join(map(re.escape, text.split("#"))), readme(folder))
    assert found, f"{folder}/README.md does not say: {text}"
    for printed, value in zip(found.groups(), computed, strict=True):
        decimals = len(printed.partition(".")[2])
        # half a digit, and what six printed digits of a csv leave out
        assert float(printed.replace("−", "-")) == pytest.approx(value, abs=0.5001 * 10**-decimals + 2e-6), (
            text,
            value,
        )


# coupling -------------------------------------------------------------------------------------------------------------


def by_prompt(rows: Any, metric: str) -> tuple[np.ndarray, tuple[int, ...]]:
    """s p k of one model of one pair, over the trajectories that are whole, and its steps."""
    wide = rows.groupby(["lora_seed", "prompt", "step"])[metric].mean().unstack()
    seeds, prompts = (wide.index.unique(level) for level in (0, 1))
    return wide.to_numpy().reshape(len(seeds), len(prompts), -1), tuple(wide.columns)


def decisions(study: str) -> Iterator[tuple[Condition, Decision]]:
    """The endpoints of every condition of an experiment, from its prompts.csv.gz and runs.csv alone."""
    rows, runs = table(f"{study}/prompts.csv.gz"), table(f"{study}/runs.csv")
    for frame in (rows, runs):
        for name in ("pair", "images"):  # tables of one pair and image set may lack them
            frame[name] = frame[name].fillna("") if name in frame else ""
    ends = runs.set_index("run")["path_ends"] if "path_ends" in runs else {}
    rows = rows[rows.kind == "lora"]
    for (group, policy, images), mine in rows.groupby(["group", "policy", "images"]):
        pairs = []
        for _, pair in mine.groupby("pair"):
            sides = [pair[pair.training == training] for training in ("full", "partial")]
            shared = set(sides[0].lora_seed) & set(sides[1].lora_seed)
            models = []
            for side in (side[side.lora_seed.isin(shared)] for side in sides):
                quality, steps = by_prompt(side, "motion_quality") if shared else (np.empty((0, 0, 1)), (0,))
                if not quality.size:
                    break
                last = ends[side.run.iloc[0]] if len(ends) else steps[-1]
                horizon = Horizon(steps.index(int(last)), converged(runs, side.run))
                jerk = by_prompt(side, "path_jerk")[0] if "path_jerk" in side else None
                models.append(Model(quality, jerk, steps, horizon))
            if len(models) == 2:
                if all(model.jerk is not None for model in models):  # prompts in which both paths could be followed
                    whole = np.logical_and.reduce([np.isfinite(model.jerk).all(axis=(0, 2)) for model in models])
                    models = [dataclasses.replace(model, jerk=model.jerk[:, whole]) for model in models]
                pairs.append(PairEndpoints.of(*models))
        yield Condition(str(group), str(policy), str(images)), decide(pairs)


def converged(runs: Any, names: Any) -> bool | None:
    """Whether the path of a model ends because its fit has converged; None where runs do not record it."""
    mine = runs[runs.run.isin(names)]
    if "own_loss" not in mine or mine.own_loss.isna().any():
        return None
    return bool(mine.model_converged.all())


def written(study: str = "coupling") -> Any:
    rows = table(f"{study}/endpoints.csv")
    rows["condition"] = (
        [str(Condition(r.group, r.policy, r.images if isinstance(r.images, str) else "")) for r in rows.itertuples()]
        if "images" in rows
        else "spatial"
    )
    return rows.set_index(["condition", "endpoint"])


@pytest.mark.parametrize("study", ["coupling", "fit"])
def test_the_endpoints_are_those_of_the_scores_of_every_clip(study: str) -> None:
    rows, found = written(study), dict(decisions(study))
    for condition, decision in found.items():
        if str(condition) in rows.index.get_level_values(0):
            mine = rows.loc[str(condition)]
            estimates = {
                "motion kept, full − partial": decision.difference,
                "motion kept, full": decision.full,
                "motion kept, partial": decision.partial,
                "P(full keeps a steadier path)": decision.superiority,
            }
            for name, estimate in estimates.items():
                if estimate is None:
                    assert (mine.loc[name, "reason"], study) == ("path_jerk was not measured", "fit")
                    continue
                ends = [mine.loc[name, end] for end in ("mean", "low", "high")]
                assert (estimate.mean, estimate.low, estimate.high) == pytest.approx(ends, abs=1e-5), (condition, name)
            verdict = str(mine.verdict.iloc[0])
            assert decision.kind in verdict
    assert set(rows.index.get_level_values(0)) <= set(map(str, found))


def interval(row: Any) -> str:
    """``+.066 (+.010 to +.123)``."""
    mean, low, high = (number(row[end], 3, "+").replace("0.", ".") for end in ("mean", "low", "high"))
    return f"{mean} ({low} to {high})"


def test_what_make_study_says_is_in_its_readme() -> None:
    rows, text = written("fit").droplevel(0), readme("fit")
    kept = [f"{rows.loc[f'motion kept, {side}', 'mean']:.0%}".replace("%", " %") for side in ("full", "partial")]
    assert f"| {' | '.join(kept)} | {interval(rows.loc['motion kept, full − partial'])} |" in text
    change = interval(rows.loc["descriptive: change to the last state, full − partial"])
    assert f"| | | {change} |" in text
    assert f"keeps {kept[0]} of its motion along the path and the partially trained one {kept[1]}" in " ".join(
        (ROOT.parent / "README.md").read_text(encoding="utf-8").split()
    )
    rows = table("fit/prompts.csv.gz").groupby(["training", "step"]).motion_quality.mean().unstack()
    shares = [f"{rows.loc[side, 900] / rows.loc[side, 0]:.0%}".replace("%", " %") for side in ("full", "partial")]
    assert f"{shares[0]} and {shares[1]} of their starts" in " ".join(text.split())


def test_the_readme_has_the_answer_of_every_condition() -> None:
    """The rows that `perturb.report --format md` writes, from endpoints.csv."""
    rows = written()
    if "images" not in rows:
        pytest.skip("tables of one pair and one image set")
    for condition, mine in rows.groupby(level=0, sort=False):
        one = mine.droplevel(0)
        mean = one["mean"]
        primary, steadier = one.loc["motion kept, full − partial"], mean["P(full keeps a steadier path)"]
        shown = not set(str(primary.verdict).split(": ")) & {"floor", "unmeasured"}
        difference = cell(Estimate(primary["mean"], primary.high - primary["mean"], 1), 3, "+") if shown else "–"
        sides = [None if pd.isna(x) else float(x) for x in (primary.distance_full, primary.distance_partial)]
        distance = ", ".join(dict.fromkeys(map(times, sides)))
        cells = [condition, *(f"{mean[f'motion kept, {side}']:.0%}" for side in ("full", "partial")), difference]
        cells += [f"{steadier:.0%}" if shown else "–", str(primary.pairs), primary.converged, distance, primary.verdict]
        assert f"| {' | '.join(map(str, cells))} |" in readme("coupling")


# the other experiments ------------------------------------------------------------------------------------------------


def first_study() -> Iterator[Claim]:
    kept, starts = {}, []
    for group in ("spatial", "temporal"):
        for training in ("full", "partial"):
            rows = table(f"first_study/scores_{group}_{training}.csv").query("metric == 'motion_quality'")
            mean = rows.groupby("step")["value"].mean()
            kept[group, training] = mean / mean[0]
            starts.append(mean[0])
    yield "own start (# for M_F, # for M_P;", starts[:2]
    for step in (20, 50, 100, 200, 300):
        yield f"| {step} | # | # | # | # |", [share[step] for share in kept.values()]


def lost_paths_count(rows: Any) -> list[float]:
    """By pair: how often the full model's path grows less jerky, where a path that is lost counts against its model."""
    ends = table("coupling/runs.csv").set_index("run").path_ends
    shares = []
    for _, pair in rows.groupby("pair"):
        grown = {}
        for training, side in pair.groupby("training"):
            jerk = side.pivot_table(index="prompt", columns="step", values="path_jerk", dropna=False)
            jerk = jerk.loc[:, jerk.columns <= ends[side.run.iloc[0]]]
            grown[training] = along(jerk.sub(jerk[0], axis=0).to_numpy(), list(jerk), jerk.shape[1] - 1)
        full, partial = (np.nan_to_num(grown[training], nan=np.inf) for training in ("full", "partial"))
        shares.append(float(ahead(full, partial).mean()))
    return shares


def losses() -> Any:
    """The loss on D_I of every run, by step."""
    rows = {}
    with tarfile.open(ROOT / "coupling/runs.tar.xz") as archive:
        for member in archive:
            if member.name.endswith("states.csv") and (file := archive.extractfile(member)):
                rows[Path(member.name).parent.name] = pd.read_csv(file).set_index("step").loss
    return pd.DataFrame(rows).T


def coupling() -> Iterator[Claim]:
    rows = written().reset_index().set_index(["condition", "endpoint"])

    def ends(condition: str, endpoint: str, scale: float = 1) -> list[float]:
        row = rows.loc[(condition, endpoint)]
        return [scale * row[name] for name in ("mean", "low", "high")]

    def deviation(condition: str) -> float:
        """Between pairs, from the interval over them."""
        row = rows.loc[(condition, primary)]
        return float((row.high - row["mean"]) / stats.t.ppf(0.975, row.pairs - 1) * row.pairs**0.5)

    web, low, high = (f"spatial, {grade} grade" for grade in ("web", "low", "high"))
    time = "temporal, single frame, low grade"
    primary, both = "motion kept, full − partial", "motion kept, full − partial, over pairs and prompts"
    steadier, mixed = "P(full keeps a steadier path)", "motion kept, full − partial, mixed model"
    last = "descriptive: change to the last state, full − partial"
    sides = {
        at: [ends(at, f"motion kept, {one}", 100)[0] for one in ("full", "partial")] for at in (web, low, high, time)
    }
    for at, name in ((low, "in all five pairs:**"), (high, "it keeps more, too:**")):
        said = f"{name} # (95 % over pairs # to #, over pairs and prompts # to #), and its path is steadier in"
        yield f"{said} # % of comparisons (# to # %)", ends(at, primary) + ends(at, both)[1:] + ends(at, steadier, 100)
    yield "with an interval that holds 0 (# to #), and to the last state", ends(low, mixed)[1:]
    yield "does not differ (#, # to #, descriptive)", ends(low, last)
    yield "by the mixed model # to #.", ends(high, mixed)[1:]
    yield "does not differ here either (#, # to #)", ends(high, last)
    yield "nothing is lost:** # and # % are kept", sides[web]
    yield "keep # % and the partial ones # % along the path", sides[time]
    yield (
        "read to step 400: # (over pairs # to #, over pairs and prompts # to #)",
        ends(time, primary) + ends(time, both)[1:],
    )
    yield "twins keep # and # %, the shipped twins", sides[high]
    yield "standard deviation of # on low-grade and # on high-grade", [deviation(low), deviation(high)]
    front = " ".join((ROOT.parent / "README.md").read_text(encoding="utf-8").split())
    for at in (low, high):
        mean, least, most = (f"+{x:.3f}".replace("0.", ".") for x in (ends(at, primary)[0], *ends(at, both)[1:]))
        kept = [f"{share:.0f} %" for share in sides[at]]
        assert f"({kept[0]} against {kept[1]}, a difference of {mean}, {least} to {most})" in front
    yield from of_clips_and_fits()


def of_clips_and_fits() -> Iterator[Claim]:
    space = table("coupling/prompts.csv.gz").query("group == 'spatial' and kind == 'lora'")
    of_low = space.query("images == 'perturb.world, low grade'")
    whole = of_low.groupby(["pair", "prompt"]).path_jerk.apply(lambda jerk: jerk.notna().all()).groupby("pair").sum()
    yield "followed in # to # of the 32 prompts", [whole.min(), whole.max()]
    counted = mean_interval(lost_paths_count(of_low))
    yield "it is # % (# to # %)", [100 * x for x in (counted.mean, counted.low, counted.high)]
    runs = table("coupling/runs.csv").query("group == 'spatial' and kind == 'lora'")
    of_high = runs[runs.images == "perturb.world, high grade"]
    times_own = of_high.loss_end / of_high.own_loss
    yield "the fits end at # to # times the loss on web-grade", [times_own.min(), times_own.max()]
    loss = losses().loc[of_high.run]
    second = 100 * (loss[400] - loss[900]) / (loss[0] - loss[900])
    yield "Their second half brings # to # % of the fall", [second.min(), second.max()]
    ends_at = table("coupling/longer.csv").groupby("settings", sort=False).loss.last()
    goal = CONVERGED * runs[(runs.pair == "joint-41") & (runs.training == "full")].own_loss.iloc[0]
    yield "900 steps end at #, rank 32 at #, 1,800 steps at #; 1.5 × its own loss is #", [*ends_at, goal]
    clips = space.groupby(["images", "training", "step"])
    of_44 = table("coupling/prompts.csv.gz").query("pair == 'joint-44' and images == 'perturb.world, low grade'")
    motion = of_44[of_44.group == "spatial"].groupby(["kind", "training", "step"]).motion_quality.mean().unstack()
    share = 100 * motion.div(motion[0], axis=0)
    kept = [
        [share[step][kind, one] for one in ("full", "partial")] for step in (25, 900) for kind in ("random", "lora")
    ]
    yield "keeps # and # % of the start at step 25, where the LoRA keeps # and # %", kept[0] + kept[1]
    yield "and # and # % at the end, where the LoRA keeps # and # %", kept[2] + kept[3]
    sizes = table("coupling/runs.csv").query("pair == 'joint-44' and kind == 'random'").set_index("training").magnitude
    yield "at the end, at # and # % of θ_S", [100 * sizes["full"], 100 * sizes["partial"]]
    looks = clips[["motion_quality", "watermark_trace", "colourfulness"]].mean().loc["perturb.world, high grade"]
    yield "(# and # of motion quality)", [looks.motion_quality[one, 25] for one in ("full", "partial")]
    yield "(trace # → # and # → # on", [looks.watermark_trace[one, k] for one in ("full", "partial") for k in (0, 900)]
    yield "(# → # and # → #)", [looks.colourfulness[one, k] for one in ("full", "partial") for k in (0, 900)]
    sizes = runs.set_index("images").magnitude["perturb.world, web grade"]
    yield "A perturbation of # to # % of θ_S", [100 * sizes.min(), 100 * sizes.max()]
    shown = clips.direction_shown.mean().xs(900, level="step")
    assert shown.drop(("perturb.world, low grade", "partial")).min() == 1
    yield "but for # % of the partial model's", [100 * (1 - shown["perturb.world, low grade", "partial"])]


def samplers() -> Iterator[Claim]:
    """What few steps do to the coupling of pair 44, to step 200."""
    many = table("coupling/prompts.csv.gz").query("pair == 'joint-44' and images == 'perturb.world, low grade'")
    many = many.query("group == 'spatial' and kind == 'lora'")
    differences, starts = [], []
    for text, rows in (("DDIM, 20 steps", many), ("DPM-Solver++, 5 steps", table("samplers/few_steps.csv"))):
        motion = [
            rows[rows.training == one].pivot_table(index="prompt", columns="step", values="motion_quality").loc[:, :200]
            for one in ("full", "partial")
        ]
        full, partial = (kept(one.to_numpy()[None], list(one), one.shape[1] - 1) for one in motion)
        differences.append(full - partial)
        starts += [one[0].mean() for one in motion]
        found = crossed_interval(differences[-1])
        shares = [100 * full.mean(), 100 * partial.mean()]
        yield f"| {text} | # % | # % | # (# to #) |", [*shares, found.mean, found.low, found.high]
    moved = crossed_interval(differences[1] - differences[0])
    yield "the difference moves by # (# to #)", [moved.mean, moved.low, moved.high]
    yield "have # and # of motion quality, with twenty # and #", starts[2:] + starts[:2]


def controls() -> Iterator[Claim]:
    ways, trainings = (
        (("spatial", "single_frame"), ("temporal", "single_frame"), ("temporal", "repeat")),
        ("full", "partial"),
    )
    curves = (
        table("controls/curves.csv").set_index(["kind", "group", "policy", "training", "metric", "step"]).sort_index()
    )
    mean = curves["mean"]

    def lora(metric: str, step: int, *ways: tuple[str, str]) -> list[float]:
        return [mean["lora", *way, t, metric, step] for way in ways for t in trainings]

    for step in (0, 20, 50, 100, 200, 300):
        motion, direction = lora("motion_quality", step, *ways), lora("direction_shown", step, *ways)
        yield (
            f"| {step} |" + " # (# %) |" * 6,
            [x for m, d in zip(motion, direction, strict=True) for x in (m, 100 * d)],
        )
    ends = curves.xs(("motion_quality", 300), level=("metric", "step"))
    yield "| ‖Δ‖/‖θ‖ at 300 |" + " # % |" * 6, [100 * ends.magnitude["lora", *w, t] for w in ways for t in trainings]
    space, _, repeat = ([100 * ends.share["random", *way, t] for t in trainings] for way in ways)
    yield "M_F keeps # % and M_P # % of its motion quality in space", space
    yield "(# % and # % are kept)", repeat

    def moves(metric: str, way: tuple[str, str]) -> list[float]:
        return [x for pair in zip(lora(metric, 0, way), lora(metric, 300, way), strict=True) for x in pair]

    yield "smoothness (# → # and # → # at step 300)", moves("smoothness", ways[0])
    yield "colourfulness goes # → # and # → #, the watermark", moves("colourfulness", ways[0])
    yield "watermark trace # → # and # → #, the distance", moves("watermark_trace", ways[0])
    yield "distance to D_I # → # and # → # at step 300", moves("image_distance", ways[0])
    yield "Dynamics falls there from # to # and from # to #", moves("dynamics", ways[2])
    clips = table("controls/prompts.csv.gz").groupby(["group", "training", "step"]).motion_quality.mean()
    for way in ways[:2]:  # of the runs that were made again
        for (training, step), value in clips[way[0]].items():
            assert mean["lora", *way, training, "motion_quality", step] == pytest.approx(value, abs=2e-4)


def landscape() -> Iterator[Claim]:
    surfaces = table("landscape/surfaces.csv").query("metric == 'motion_quality'")
    y = surfaces.set_index(["training", "spatial", "temporal"])["mean"]
    kept = {t: (lambda s, u, t=t: y[t, s, u] / y[t, 0, 0]) for t in ("full", "partial")}
    for name, s in (("½", 0.5), ("1", 1.0)):
        cells = [kept[t](s, u) for t in kept for u in (0.0, 0.5, 1.0)]
        yield f"| {name} | # | # | # | | {name} | # | # | # |", cells
    cells = [kept[t](0.0, u) for t in kept for u in (0.5, 1.0)]
    yield "| α_S = 0 | 1 | # | # | | α_S = 0 | 1 | # | # |", cells
    both = [100 * x for t in kept for x in (kept[t](0.5, 0.5), kept[t](0.5, 0.0) * kept[t](0.0, 0.5))]
    yield "leaves # % of the motion in the full model where the product of what each leaves alone is # %", both[:2]
    yield "and # % instead of # % in the partial one", both[2:]
    rows = table("landscape/interactions.csv").query("metric == 'motion_quality'")
    mean = rows[rows.spatial == "mean"].set_index(["training", "scale"])
    one, two, gap = (mean.loc[(t, "product")] for t in ("full", "partial", "full − partial"))
    over = ["interaction", "low", "high", "seed_low", "seed_high", "p"]
    yield "average # (95 % # to # over prompts, # to # over LoRA seeds, p = #)", one[over].tolist()
    yield "and # (# to #; # to #; p = #)", two[over].tolist()
    yield "on average** (J #, # to #, p = #)", gap[["interaction", "low", "high", "p"]].tolist()
    yield "above 0 in both (# and # on average)", [mean.loc[(t, "raw")].interaction for t in ("full", "partial")]
    cells = rows[(rows.scale == "product") & (rows.training == "full − partial") & (rows.spatial != "mean")]
    cells = cells.set_index([cells.spatial.astype(float), cells.temporal.astype(float)])
    for text, at in (
        ("(at α_S = ¼, α_T = ½: #, # to #, Holm p = #", (0.25, 0.5)),
        ("at ½ and ¼: #, # to #, Holm p = #", (0.5, 0.25)),
        ("(at ½ and 1: #, # to #, Holm p = #", (0.5, 1.0)),
    ):
        yield text, cells.loc[at][["interaction", "low", "high", "p_holm"]].tolist()
    looks = table("landscape/surfaces.csv").query("metric == 'colourfulness'")
    c = looks.set_index(["training", "spatial", "temporal"])["mean"]
    yield "by # at α_T = 1, against # in the full one", [c[t, 0, 1] - c[t, 0, 0] for t in ("partial", "full")]


def layers() -> Iterator[Claim]:
    rows = table("layers/ablation.csv").query("metric == 'motion_quality'")
    change = rows.set_index(["training", "group", "scale", "part"])["change"]
    energy = table("layers/energy.csv").set_index(["training", "group"])

    def costs(group: str, part: str) -> list[float]:
        return [-100 * change[t, group, "relative", part] for t in ("full", "partial")]

    def holds(group: str, block: str) -> list[float]:
        rows = [energy.loc[(t, group)] for t in ("full", "partial")]
        return [100 * of[of.block == block].share.sum() for of in rows]

    def pairs(*columns: list[float]) -> list[float]:
        return [value for both in zip(*columns, strict=True) for value in both]

    convolution = pairs(costs("spatial", "up convolution"), costs("spatial", "all"))
    yield "cost # % of the motion in the full model (all of Δ: # %) and # % in the partial one (# %)", convolution
    yield "in the full model even gives # % back", [-costs("spatial", "attention")[0]]
    outer = holds("spatial", "outer")[:1] + costs("spatial", "outer")
    yield "hold # % of ‖Δ‖² and cost # % (full) and # % (partial)", outer
    yield "The middle holds # % and # %, and costs # %", holds("spatial", "middle") + costs("spatial", "middle")[:1]
    first = holds("temporal", "outer") + pairs(costs("temporal", "outer"), costs("temporal", "all"))
    text = (
        "with # % and # % of ‖Δ‖² it costs # % of the motion in the full model (all of Δ: # %) and # % in the partial"
    )
    yield f"{text} one (# %)", first
    yield "where # % and # % of the energy is, costs # % and # %", holds("temporal", "up") + costs("temporal", "up")
    yield "(`other`) cost # % in space, in the full one # %", costs("spatial", "other")[::-1]
    yield "costs the partial model more, # % against # %", costs("temporal", "up")[::-1]
    raw = [change["full", group, "raw", part] for group in ("temporal", "spatial") for part in ("all",)]
    yield "middle and outer #, all #), in its space", [_sum(change, "temporal"), raw[0]]
    yield "they exceed it (#, all #)", [_sum(change, "spatial"), raw[1]]


def _sum(change: Any, group: str) -> float:
    return float(sum(change["full", group, "raw", part] for part in ("up", "down", "middle", "outer")))


def finetuning() -> Iterator[Claim]:
    rows = table("finetuning/table.csv").fillna({"group": ""}).set_index(["start", "strategy", "group"])
    start = {s: rows.loc[(s, "none", "")] for s in ("full", "partial")}
    direct, lora = ({s: rows.loc[(s, strategy, "spatial")] for s in start} for strategy in ("direct", "LoRA"))
    ends = [value for s in start for value in (start[s].image_distance, direct[s].image_distance)]
    yield "(distance # → # from M_F, # → # from M_P", ends
    trace = [value for s in start for value in (start[s].watermark_trace, direct[s].watermark_trace)]
    yield "(trace # → #, # → #)", trace
    lost = [x for s in start for x in (direct[s].motion_quality_change, start[s].motion_quality)]
    yield "(# of #, # of #)", lost
    yield "worst for motion** (# and #)", [lora[s].motion_quality_change for s in start]
    sizes = [100 * side[s].magnitude for s in start for side in (lora, direct)]
    yield "‖Δ‖/‖θ‖ (# against # %, # against # %)", sizes
    bounds = [x for s in start for x in (-direct[s].motion_quality_change, direct[s].motion_quality_change_half_width)]
    yield "loses # ± # and M_P # ± #", bounds
    yield "they keep # % and # %", [100 * direct[s].motion_quality / start[s].motion_quality for s in start]


def votes() -> Iterator[Claim]:
    rows = table("votes/power.csv")
    power = rows.set_index(["preference", "raters", "prompts"]).excludes_half
    for raters in (5, 10, 20):
        for prompts in (16, 32, 64):
            text = f"| {raters} × {prompts} | # | # | # | # |"
            yield text, [100 * power[p, raters, prompts] for p in (0.6, 0.65, 0.73, 0.87)]
    yield "covers in # to # % of all lines", [100 * rows.covers.min(), 100 * rows.covers.max()]
    size = 100 * power[0.5]
    yield "it excludes one half in # to # %", [size.min(), size.max()]


def statistics() -> Iterator[Claim]:
    rows = table("statistics/endpoints.csv")
    floor = rows.scenario == "all on the floor"
    starts = rows[rows.scenario.str.startswith("different starts")]
    yield "rejects in # to # % of studies", [100 * starts.primary_rejects.min(), 100 * starts.primary_rejects.max()]
    yield "covers in # to # %. On a common", [100 * starts.interval_covers.min(), 100 * starts.interval_covers.max()]
    yield "too rarely (# to #)", [rows[floor].interval_covers.min(), rows[floor].interval_covers.max()]
    yield ": # to # % of such studies", [100 * rows[floor].floor.min(), 100 * rows[floor].floor.max()]
    yield "and # to # % reject", [100 * rows[floor].primary_rejects.min(), 100 * rows[floor].primary_rejects.max()]
    yield "wrong in at most # %", [100 * rows.verdict.max()]


def metric_calibration() -> Iterator[Claim]:
    for row in table("metric_calibration/agreement.csv").itertuples():
        kind = {"web": "", "low": " (blur, noise, mark)", "high": " (textured)"}[row.grade]
        yield f"| {row.grade}{kind} | # | # px | #° |", [row.spearman, row.end_point_error, row.direction_error]
    rows = table("metric_calibration/families.csv").query("use == 'held out'")
    for family, mine in rows.groupby("family"):
        m, o = ([f(mine[c]) for f in (np.median, np.min, np.max)] for c in ("motion_quality", "object_motion"))
        whole = f"| {family} | # (# to #) | # (# to #) |"
        if f"| {family} | " in readme("metric_calibration"):  # a still has nothing to tell
            from_zero = re.search(re.escape(f"| {family} |") + r"[^|]*\| \.00 \(to", readme("metric_calibration"))
            yield (f"| {family} | # (# to #) | # (to #) |", [*m, o[0], o[2]]) if from_zero else (whole, [*m, *o])


EXPERIMENTS = (
    first_study,
    coupling,
    samplers,
    controls,
    landscape,
    layers,
    finetuning,
    votes,
    statistics,
    metric_calibration,
)


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda each: each.__name__)
def test_every_number_of_an_experiment(experiment: Callable[[], Iterator[Claim]]) -> None:
    for claim in experiment():
        says(experiment.__name__, claim)
