"""How the look of single frames is distributed: its shift from step 0, and its distance to the images D_I.

Eight numbers are kept of every frame, few enough that 32 clips of 8 frames determine their covariance. Five are natural
scene statistics of the mean-subtracted, contrast-normalised luma

    m = (Y - μ)/(σ + .02),  μ, σ: mean and standard deviation in a Gaussian window of 7/6 px,

which blur, noise, compression and generators change in telling ways (Ruderman 1994; Mittal et al. 2012, BRISQUE); three
are plain: mean luma, contrast, colourfulness. Means, mean absolute values and correlations instead of fitted
distributions: a fit can fail on a flat frame, a mean cannot.

Axes: t frames, h w pixels, s statistics, n clips or frames.
"""

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from perturb.errors import UserError
from perturb.metrics.base import STEP_0, Clip, EmbeddedSet, Gathered, MetricInfo, Sets, Unavailable, Value

WINDOW, WINDOW_SIGMA = (7, 7), 7 / 6
"""Of the Gaussian, in pixels: as BRISQUE (Mittal et al. 2012, section III-A)."""
NATURAL = 5
"""So many of the statistics are of m."""
LOCAL_FLOOR = 0.02
"""Luma; five grey levels of 255, not BRISQUE's one: rounding on a flat area is no texture."""
FLAT = 1e-8
"""Mean square of m that is rounding of float32."""
FEWEST_CLIPS = 8
"""More than the five statistics, so that Σ before it is shrunk has full rank."""
FEWEST_IMAGES = 16
"""Twice the eight statistics, for the same reason; set by hand."""
SPREAD_FLOOR = np.array([0.01, 0.01, 0.01, 0.01, 0.05, 0.01, 0.01, 1.0])
"""What counts as no difference in each statistic: the smallest standard deviation a set is taken to have. Set by hand:
a hundredth of the range of what lies between 0 and 1, .05 of the local contrast's octaves, 1 of colourfulness."""


def natural_statistics(light: np.ndarray) -> np.ndarray:
    """Of m of one frame, luma `h w` → 5 numbers.

    √⟨m²⟩ · ⟨|m|⟩/√⟨m²⟩ (.80 if Gaussian, less with heavy tails) · correlation of m with its neighbours beside and
    below · with its diagonal neighbours · log₂(⟨σ⟩ + .02), the local contrast. A flat frame: 0, .80, 0, 0, -5.6.
    """
    mean = cv2.GaussianBlur(light, WINDOW, WINDOW_SIGMA)
    deviation = cv2.GaussianBlur(light * light, WINDOW, WINDOW_SIGMA)
    deviation -= mean * mean
    np.sqrt(np.maximum(deviation, 0, out=deviation), out=deviation)
    m = (light - mean) / (deviation + np.float32(LOCAL_FLOOR))
    energy = _product(m, m)
    contrast = np.log2(float(deviation.mean()) + LOCAL_FLOOR)
    if energy < FLAT:
        return np.array([0, np.sqrt(2 / np.pi), 0, 0, contrast])
    straight = (_product(m[:, 1:], m[:, :-1]) + _product(m[1:], m[:-1])) / 2
    diagonal = (_product(m[1:, 1:], m[:-1, :-1]) + _product(m[1:, :-1], m[:-1, 1:])) / 2
    spread = np.sqrt(energy)
    return np.array([spread, float(np.abs(m).mean()) / spread, straight / energy, diagonal / energy, contrast])


def _product(a: np.ndarray, b: np.ndarray) -> float:
    """⟨a b⟩."""
    return float(np.einsum("hw,hw->", a, b)) / a.size


def frame_statistics(clip: Clip) -> np.ndarray:
    """The statistics of every frame: `t 8`. UserError for frames under 7 px."""
    if min(clip.frames.shape[1:3]) < WINDOW[0]:
        raise UserError(f"frame statistics need at least {WINDOW[0]} px, not {clip.frames.shape[1:3]} (height, width)")
    light = clip.light
    plain = np.column_stack([light.mean((1, 2)), clip.contrast, clip.colourfulness])
    return np.column_stack([np.stack([natural_statistics(frame) for frame in light]), plain])


def mahalanobis(points: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """√((x - μ)ᵀ Σ⁻¹ (x - μ)/s) of points `n s` from a reference set `n' s`: about 1 for a member of the set.

    Σ = (1 - λ) S + λ diag(S), λ = s/(n' + s), S the sample covariance with at least `SPREAD_FLOOR`² added to its
    diagonal: it always has an inverse, and a direction the set happens not to use does not explode.
    """
    count, size = reference.shape
    sample = np.cov(reference, rowvar=False) + np.diag(SPREAD_FLOOR[:size] ** 2)
    keep = count / (count + size)
    shrunk = keep * sample + (1 - keep) * np.diag(np.diag(sample))
    offset = points - reference.mean(0)
    return np.sqrt(np.einsum("ns,ns->n", offset, np.linalg.solve(shrunk, offset.T).T) / size)


def frechet(one: np.ndarray, other: np.ndarray, floor: np.ndarray = SPREAD_FLOOR) -> float:
    """√((|μ₁ - μ₂|² + tr(Σ₁ + Σ₂ - 2 (Σ₁Σ₂)^½))/s) of two sets `n s`, each statistic in standard deviations of `other`.

    ``floor`` `s`: what counts as no difference, added to these. tr (Σ₁Σ₂)^½ = Σ √eigenvalues of Σ₁Σ₂, which are real
    and not negative (Fréchet 1957; Heusel et al. 2017).
    """
    unit = np.hypot(other.std(0, ddof=1), floor)
    first, second = one / unit, other / unit
    covariances = [np.cov(points, rowvar=False) for points in (first, second)]
    shared = np.sqrt(np.maximum(np.linalg.eigvals(covariances[0] @ covariances[1]).real, 0)).sum()
    apart = ((first.mean(0) - second.mean(0)) ** 2).sum() + np.trace(covariances[0] + covariances[1]) - 2 * shared
    return float(np.sqrt(max(apart, 0.0) / one.shape[1]))


class Naturalness(EmbeddedSet):
    """The shift of each clip's natural scene statistics from step 0, and the distance of the whole set to D_I."""

    infos = (
        MetricInfo.of(
            "nss_shift",
            "visual",
            "√((x - μ)ᵀ Σ⁻¹ (x - μ)/5); x = mean over frames of five statistics of m = (Y - μ_Y)/(σ_Y + .02): "
            "√⟨m²⟩, ⟨|m|⟩/√⟨m²⟩, correlation with straight and with diagonal neighbours, log₂(⟨σ_Y⟩ + .02); "
            "μ, Σ of the step-0 clips, Σ shrunk to its diagonal by 5/(n + 5)",
            "after BRISQUE and NIQE (Mittal et al. 2012, 2013)",
            "About 1 for a step-0 clip, not 0. Says that the look has changed, not whether for better: "
            f"sharper counts like blurrier. Needs {FEWEST_CLIPS} step-0 clips.",
            unit="standard deviations",
            range=(0.0, None),
            direction="down",
            depends=("size",),
        ),
        MetricInfo.of(
            "image_distance",
            "visual",
            "√((|μ₁ - μ₂|² + tr(Σ₁ + Σ₂ - 2 (Σ₁Σ₂)^½))/8) of eight statistics per frame (the five of nss_shift, mean "
            "luma, contrast, colourfulness), in standard deviations of D_I",
            "Fréchet distance (Heusel et al. 2017) of hand-made statistics",
            "Knows texture, light and colour, not content. Few clips bias it upwards: compare sets of equal "
            f"number. Needs {FEWEST_CLIPS} clips and {FEWEST_IMAGES} images.",
            unit="standard deviations",
            range=(0.0, None),
            direction="down",
            scope="set",
            depends=("size",),
        ),
    )

    def keep(self, clip: Clip) -> np.ndarray:
        """The statistics of the clip's frames, float64 `t 8`."""
        return frame_statistics(clip)

    def combine(self, sets: Sets) -> Mapping[str, Value | Sequence[Value]]:
        """Both measures; each says by itself why it cannot be had."""
        try:
            shifts: Sequence[Value] = [Value.of(shift) for shift in _shifts(sets.own, sets.reference)]
        except UserError as error:
            shifts = [Value.because(error)] * len(sets.own.features)
        return {"nss_shift": shifts, "image_distance": Value.told(lambda: _distance(sets.own, sets.images))}


def _shifts(own: Gathered, reference: Gathered | None) -> np.ndarray:
    if reference is None:
        raise Unavailable(f"no {STEP_0} to compare with")
    if (count := len(reference.features)) < FEWEST_CLIPS:
        raise Unavailable(f"the spread of the step-0 clips needs at least {FEWEST_CLIPS} of them, given {count}")
    if not own.features:
        return np.empty(0)
    points, originals = (
        np.stack([frames.mean(0)[:NATURAL] for frames in gathered.features]) for gathered in (own, reference)
    )
    return mahalanobis(points, originals)


def _distance(own: Gathered, images: Gathered | None) -> float:
    if images is None:
        raise Unavailable("no image set D_I to compare with")
    if len(images.features) < FEWEST_IMAGES or len(own.features) < FEWEST_CLIPS:
        raise Unavailable(
            f"the distance to D_I needs at least {FEWEST_CLIPS} clips and {FEWEST_IMAGES} images, "
            f"given {len(own.features)} and {len(images.features)}"
        )
    return frechet(np.concatenate(own.features), np.concatenate(images.features))
