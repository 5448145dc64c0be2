"""What every measure of motion says of every family of clips, as csv and to read."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import nan
from statistics import median

import pandas as pd

from perturb.metrics.base import Context, Metric, SetMetric
from perturb.metrics.calibration.clips import clip
from perturb.metrics.calibration.families import FAMILIES, GROUNDS, SIZES, Member, members
from perturb.metrics.calibration.footage import footage
from perturb.metrics.embedded.motion import MOTION
from perturb.metrics.embedded.tracks import TRACKS
from perturb.metrics.scoring.engine import score_clips

FEW_GROUNDS = ("texture 91", "page")  # the second shows printed text
METRICS = tuple(info.name for metric in (MOTION, TRACKS) for info in metric.infos)
SHOWN = (
    *("motion_quality", "object_motion", "collapse", "cuts", "camera_speed"),
    *("object_dynamics", "object_path", "object_smoothness", "object_texture"),
    *("track_survival", "track_speed", "track_travel", "track_jerk"),
)


@dataclass(frozen=True)
class Scored:
    """The numbers of one clip, by name. ``size``: width × height × frames."""

    use: str
    family: str
    member: str
    size: str
    values: dict[str, float]


def score(member: Member) -> Scored:
    """All measures of one clip."""
    frames, height, width = member.frames.shape[:3]
    one = clip(member.frames)
    values = {**MOTION.measure(one, Context()), **TRACKS.measure(one, Context())}
    return Scored(member.use, member.family, member.name, f"{width}×{height}×{frames}", values)


def score_learned(metrics: Sequence[Metric | SetMetric], member: Member) -> Scored:
    """What learned metrics say of one clip by itself; those that compare it with others say nothing."""
    frames, height, width = member.frames.shape[:3]
    rows = score_clips(metrics, [clip(member.frames)], Context())
    values = {info.name: value.value for one, info, value in rows if one is not None and value.value is not None}
    return Scored(member.use, member.family, member.name, f"{width}×{height}×{frames}", values)


def few_members() -> Iterator[Member]:
    """All families on two held-out backgrounds at the larger size."""
    for family in FAMILIES:
        yield from (one for one in members(family, "held out", SIZES[-1]) if one.name in FEW_GROUNDS)


def every_member() -> Iterator[Member]:
    """All families on all backgrounds at both sizes, and the footage."""
    for size in SIZES:
        for use in GROUNDS:
            for family in FAMILIES:
                yield from members(family, use, size)
    yield from (member for member, _ in footage())


def families_csv(rows: Iterable[Scored], names: Sequence[str] = METRICS) -> str:
    """One line per clip."""
    cells = [
        [row.use, row.family, row.member, row.size, *(row.values.get(name, nan) for name in names)] for row in rows
    ]
    table = pd.DataFrame(cells, columns=["use", "family", "member", "size", *names])
    return table.to_csv(index=False, float_format="%.4g", na_rep="nan")


def families_markdown(rows: Sequence[Scored], names: Sequence[str] = SHOWN) -> str:
    """One line per family: the median over its members of all sizes, and their range."""
    groups: dict[tuple[str, str], list[Scored]] = {}
    for row in rows:
        groups.setdefault((row.family, row.use), []).append(row)
    lines = [["family", "backgrounds", "clips", *names], ["---", "---", *("--:" for _ in range(len(names) + 1))]]
    for (family, use), group in groups.items():
        cells = [_cell([row.values.get(name, nan) for row in group]) for name in names]
        lines.append([family, use, str(len(group)), *cells])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(values: Sequence[float]) -> str:
    """
    >>> _cell([0.1, 0.25, 0.3]), _cell([1.0, 1.0])
    ('0.25 (0.10 to 0.30)', '1')
    """
    low, high = min(values), max(values)
    return f"{low:.2g}" if low == high else f"{median(values):.2f} ({low:.2f} to {high:.2f})"
