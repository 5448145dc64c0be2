"""What experiments/ say is what their committed tables give, by whoever computes it again."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from tests.unit.published import ROOT, Claim, readme, says, table

pytestmark = pytest.mark.skipif(not ROOT.is_dir(), reason="experiments/ is not part of an installed package")


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
