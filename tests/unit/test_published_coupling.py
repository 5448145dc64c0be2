"""The verdict over pairs of twins, recomputed from the committed scores of every clip."""

import dataclasses
import tarfile
from collections.abc import Callable, Iterator
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
from tests.unit.published import ROOT, Claim, readme, says, table

pytestmark = pytest.mark.skipif(not ROOT.is_dir(), reason="experiments/ is not part of an installed package")


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
                assert estimate is not None
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
    ahead = [f"{100 * rows.loc['P(full keeps a steadier path)', end]:.0f}" for end in ("mean", "low", "high")]
    assert f"| | | {ahead[0]} % ({ahead[1]} to {ahead[2]} %) |" in text
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
    time, far = (f"temporal, single frame, {grade} grade" for grade in ("low", "high"))
    primary, both = "motion kept, full − partial", "motion kept, full − partial, over pairs and prompts"
    steadier, mixed = "P(full keeps a steadier path)", "motion kept, full − partial, mixed model"
    last = "descriptive: change to the last state, full − partial"
    sides = {
        at: [ends(at, f"motion kept, {one}", 100)[0] for one in ("full", "partial")]
        for at in (web, low, high, time, far)
    }
    for at, name, and_its in (
        (low, "in all five pairs:**", "and its"),
        (high, "by the primary endpoint alone:**", "but its"),
    ):
        said = f"{name} # (95 % over pairs # to #, over pairs and prompts # to #), {and_its} path is steadier in"
        yield f"{said} # % of comparisons (# to # %)", ends(at, primary) + ends(at, both)[1:] + ends(at, steadier, 100)
    yield "the robustness row, # to #.", ends(low, mixed)[1:]
    yield "does not differ (#, # to #, descriptive)", ends(low, last)
    yield "By the mixed model # to #;", ends(high, mixed)[1:]
    yield "does not differ here either (#, # to #)", ends(high, last)
    yield "nothing is lost:** # and # % are kept", sides[web]
    yield "keep # % and the partial ones # % along the path", sides[time]
    yield (
        "read to step 400: # (over pairs # to #, over pairs and prompts # to #)",
        ends(time, primary) + ends(time, both)[1:],
    )
    yield "no such difference: # and # %, # (over pairs # to #)", sides[far] + ends(far, primary)
    yield "twins keep # and # %, the shipped twins", sides[high]
    yield "standard deviation of # on low-grade and # on high-grade", [deviation(low), deviation(high)]
    front = " ".join((ROOT.parent / "README.md").read_text(encoding="utf-8").split())
    for at in (low, high):
        mean, least, most = (f"+{x:.3f}".replace("0.", ".") for x in (ends(at, primary)[0], *ends(at, both)[1:]))
        kept = [f"{share:.0f} %" for share in sides[at]]
        assert f"({kept[0]} against {kept[1]}, a difference of {mean}, {least} to {most})" in front
    yield "as in the paper: # against # %", sides[low]
    yield "keeps more too, # against # %", sides[high]
    yield from of_clips_and_fits()


def by_seed(space: Any, pair: int, grade: str, seed: int) -> float:
    """The share of motion kept along the path by one LoRA seed of a pair, full − partial."""
    of_pair = {"pair": f"joint-{pair}", "images": f"perturb.world, {grade} grade", "group": "spatial", "kind": "lora"}
    rows, runs = (
        frame[(frame[[*of_pair]] == pd.Series(of_pair)).all(axis=1)] for frame in (space, table("coupling/runs.csv"))
    )
    found = []
    for training in ("full", "partial"):
        quality, steps = by_prompt(rows[(rows.training == training) & (rows.lora_seed == seed)], "motion_quality")
        found.append(kept(quality, steps, steps.index(int(runs.path_ends.max()))).mean())
    return float(found[0] - found[1])


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
    rows = table("coupling/prompts.csv.gz").query("pair == 'joint-44' and group == 'spatial' and lora_seed == 0")
    motion = rows.groupby(["images", "kind", "training", "step"]).motion_quality.mean().unstack()
    share = 100 * motion.div(motion[0], axis=0)

    def of_both(grade: str, kind: str, step: int) -> list[float]:
        return [share.loc[(f"perturb.world, {grade} grade", kind, one), step] for one in ("full", "partial")]

    yield (
        "keeps # and # % of the start at step 25 of low grade, where the LoRA keeps # and # %, and # and # % at step "
        "25 of high grade, where the LoRA keeps # and # %",
        [x for grade in ("low", "high") for kind in ("random", "lora") for x in of_both(grade, kind, 25)],
    )
    yield (
        "it keeps # and # % where the LoRA keeps # and # % on low-grade stills, and # and # % against # and # % on",
        [x for grade in ("low", "high") for kind in ("random", "lora") for x in of_both(grade, kind, 900)],
    )
    sizes = table("coupling/runs.csv").query("pair == 'joint-44' and kind == 'random'").magnitude
    yield "In the end, at # to # % of θ_S", [100 * sizes.min(), 100 * sizes.max()]
    yield (
        "difference of pair 44 goes from # to # on low-grade stills and from # to # on high-grade ones, that of pair "
        "45 from # to # and from # to #",
        [by_seed(space, pair, grade, s) for pair in (44, 45) for grade in ("low", "high") for s in (0, 1)],
    )
    looks = clips[["motion_quality", "watermark_trace", "colourfulness"]].mean().loc["perturb.world, high grade"]
    yield "(# and # of motion quality)", [looks.motion_quality[one, 25] for one in ("full", "partial")]
    yield "(trace # → # and # → # on", [looks.watermark_trace[one, k] for one in ("full", "partial") for k in (0, 900)]
    yield "(# → # and # → #)", [looks.colourfulness[one, k] for one in ("full", "partial") for k in (0, 900)]
    sizes = runs.set_index("images").magnitude["perturb.world, web grade"]
    yield "A perturbation of # to # % of θ_S", [100 * sizes.min(), 100 * sizes.max()]
    shown = clips.direction_shown.mean().xs(900, level="step")
    lost = 100 * (1 - shown)
    assert lost.drop([(f"perturb.world, {grade} grade", "partial") for grade in ("low", "high")]).max() == 0
    yield (
        "but for # % of the partial model's on low-grade stills and # % on high-grade ones",
        [lost[f"perturb.world, {grade} grade", "partial"] for grade in ("low", "high")],
    )


def few_steps() -> Iterator[Claim]:
    rows = table("samplers/table.csv").set_index(["model", "sampler", "steps", "measure"]).sort_index()
    deciding = ["motion_quality", "colourfulness", "watermark_trace", "shown"]
    for sampler, text in (("ddim", "DDIM"), ("dpm_solver", "DPM-Solver++(2M)"), ("unipc", "UniPC")):
        for steps in (5, 10, 15, 20, 30):
            of_both = [rows.loc[(model, sampler, steps)] for model in ("nano_full", "nano_partial")]
            within = all(one.within[deciding].all() for one in of_both)
            assert within == (steps >= 20)
            if steps in (10, 15, 20):
                motion = [one.loc["motion_quality"] for one in of_both]
                numbers = [x for one in motion for x in (one.difference, one.low, one.high)]
                said = f"| {text}, {steps} steps | # | # (# to #) | # (# to #) | {'yes' if within else 'no'} |"
                yield said, [motion[0].forwards, *numbers]
    starts = [rows.loc[(model, "ddim", 50, "motion_quality"), "mean"] for model in ("nano_full", "nano_partial")]
    yield "| nano_full (#) | nano_partial (#) |", starts


def samplers() -> Iterator[Claim]:
    """What few steps cost, and what becomes of the coupling of pair 44 with them, in longer clips and larger frames."""
    yield from few_steps()
    plain = table("coupling/prompts.csv.gz").query("pair == 'joint-44' and images == 'perturb.world, low grade'")
    plain = plain.query("group == 'spatial' and kind == 'lora' and lora_seed == 0")
    regimes = dict(list(table("samplers/regimes.csv").groupby("regime")))
    named = {
        "few_steps": "DPM-Solver++, 5 steps",
        "longer": "32 frames, FreeNoise",
        "larger": "128×128, ScaleCrafter",
    }
    moves, starts = [], []
    for name, text in named.items():
        prompts = sorted(regimes[name].prompt.unique())
        states = [step for step in sorted(regimes[name].step.unique()) if name != "few_steps" or step <= 200]
        usual = f"8 frames of 64×64, DDIM, 20 steps, to step {states[-1]}"
        found = []
        for row, rows in ((usual, plain), (text, regimes[name])):
            sides = [
                rows[rows.training == one]
                .pivot_table(index="prompt", columns="step", values="motion_quality")
                .loc[prompts, states]
                for one in ("full", "partial")
            ]
            full, partial = (kept(one.to_numpy()[None], states, len(states) - 1) for one in sides)
            found.append(full - partial)
            starts.append([one[0].mean() for one in sides])
            over = crossed_interval(found[-1])
            numbers = [len(prompts), 100 * full.mean(), 100 * partial.mean(), over.mean, over.low, over.high]
            yield f"| {row} | # | # % | # % | # (# to #) |", numbers
        moved = crossed_interval(found[1] - found[0])
        moves.append([moved.mean, moved.low, moved.high])
    few, longer, larger = moves
    yield "moves by # with few steps (# to #: its sign turns)", few
    yield "by # at 32 frames (# to #) and by # at 128×128 (# to #)", longer + larger
    yield "# and # with few steps (# and # with twenty)", starts[1] + starts[0]
    yield "# and # at 32 frames, # and # at 128×128 (# and # for these prompts)", starts[3] + starts[5] + starts[2]


@pytest.mark.parametrize("experiment", [coupling, samplers], ids=lambda each: each.__name__)
def test_every_number_of_the_coupling_of_pairs(experiment: Callable[[], Iterator[Claim]]) -> None:
    for claim in experiment():
        says(experiment.__name__, claim)
