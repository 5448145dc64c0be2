"""How far the motion of a set of clips is from that of the step-0 clips, by histograms of velocity and acceleration.

After the Fréchet video motion distance (Liu et al. 2024, arXiv 2407.16124) and its one-dimensional histograms; the
tracker is another (`tracks.py` instead of PIPs++), and there is one volume per clip instead of many small ones, so the
numbers are not FVMD's. Axes: t frames, n tracks, b bins, last axis 2 = (x, y).
"""

from collections.abc import Mapping, Sequence

import numpy as np

from perturb.metrics.base import STEP_0, Clip, EmbeddedSet, Gathered, MetricInfo, Sets, Unavailable, Value
from perturb.metrics.embedded.naturalness import frechet
from perturb.metrics.embedded.tracks import MOVING, tracks_of

BINS = 8  # directions, as FVMD
FEWEST_CLIPS = 8
FLOOR = 0.1  # of τ/6: what counts as no difference, a fortieth of a pixel at 64 px


def directions(vectors: np.ndarray) -> np.ndarray:
    """Σ |v| over the vectors in each of 8 directions, over the number of vectors: `… 2` → `b`.

    Lost ones (NaN) are left out. The first bin is around +x, the third around +y.

    >>> directions(np.array([[1.0, 0.1], [0.0, 3.0], [np.nan, np.nan]])).round(2).tolist()
    [0.5, 0.0, 1.5, 0.0, 0.0, 0.0, 0.0, 0.0]
    """
    known = vectors[~np.isnan(vectors).any(-1)]
    turn = np.round(np.arctan2(known[:, 1], known[:, 0]) * BINS / (2 * np.pi)).astype(int) % BINS
    return np.bincount(turn, np.linalg.norm(known, axis=-1), minlength=BINS) / max(1, len(known))


def motion_histograms(clip: Clip) -> np.ndarray:
    """Of the velocities and of the accelerations of all tracks, camera included, in τ/6: `1 16`.

    UserError for fewer than 4 frames.
    """
    shots = [shot.raw for shot in tracks_of(clip)]
    orders = (np.concatenate([np.diff(raw, n=n, axis=0).reshape(-1, 2) for raw in shots]) for n in (1, 2))
    return np.concatenate([directions(vectors / MOVING) for vectors in orders])[None]


class TrackDistance(EmbeddedSet):
    """The Fréchet distance of the clips' motion histograms from those of the step-0 clips."""

    infos = (
        MetricInfo.of(
            "track_distance",
            "motion",
            "√((|μ₁ - μ₂|² + tr(Σ₁ + Σ₂ - 2 (Σ₁Σ₂)^½))/16) of the clips' histograms of velocity and of acceleration "
            "over 8 directions (Σ |v| in each over the number of vectors), in standard deviations of the step-0 clips",
            "after FVMD (Liu et al. 2024), with another tracker",
            "Hears disorder, hardly speed. Of 32 scenes of the embedded world with other noise .3, frozen "
            "1.0, at half the speed .5, two frames of eight dropped 11, shuffled 51; 8 to 64 other scenes .6 to 1.1, "
            f"so compare sets of the same prompts. Needs {FEWEST_CLIPS} clips on both sides.",
            unit="standard deviations",
            range=(0.0, None),
            direction="down",
            scope="set",
            depends=("fps",),
        ),
    )

    def keep(self, clip: Clip) -> np.ndarray:
        """The histograms of the clip."""
        return motion_histograms(clip)

    def combine(self, sets: Sets) -> Mapping[str, Value | Sequence[Value]]:
        """The distance. Unavailable without step-0 clips, and for fewer than 8 clips on either side."""
        return {"track_distance": Value.told(lambda: _distance(sets.own, sets.reference))}


def _distance(own: Gathered, reference: Gathered | None) -> float:
    if reference is None:
        raise Unavailable(f"no {STEP_0} to compare the motion with")
    if min(len(own.features), len(reference.features)) < FEWEST_CLIPS:
        raise Unavailable(
            f"the distance of motion needs at least {FEWEST_CLIPS} clips on both sides, "
            f"given {len(own.features)} and {len(reference.features)}"
        )
    one, other = np.concatenate(own.features), np.concatenate(reference.features)
    return frechet(one, other, np.full(2 * BINS, FLOOR))
