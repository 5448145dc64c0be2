"""Inception: are the frames varied and recognisable, and how far is their distribution from another one?

Axes: n frames of a whole set, t frames of a clip, d = 2048 features, k = 1008 classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from perturb.device import pick_device
from perturb.metrics.base import STEP_0, Clip, Gathered, MetricInfo, Sets, Unavailable, Value
from perturb.metrics.learned.files import frozen, state_dict
from perturb.metrics.learned.network import Learned, pixels, through
from perturb.metrics.learned.weights import WeightFile

if TYPE_CHECKING:
    from torch import Tensor, nn

INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
INCEPTION = WeightFile(
    INCEPTION_FILE,
    f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{INCEPTION_FILE}",
    licence="Apache-2.0 (torch-fidelity; after TensorFlow's network)",
    digest="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    package="torch_fidelity",
    extra="learned",
)
FEATURES = 2048
SPLITS = 10


def inception_score(logits: np.ndarray, *, splits: int = SPLITS) -> float:
    """exp E_x KL(p(y|x) ‖ p(y)), mean of the parts of the shuffled frames: `n k` → 1 … k (torch-fidelity).

    Unavailable for fewer frames than parts.
    """
    import torch
    from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, isc_features_to_metric

    if len(logits) < splits:
        raise Unavailable(f"the inception score divides the frames into {splits} parts; there are {len(logits)}")
    return isc_features_to_metric(torch.from_numpy(logits), splits=splits)[KEY_METRIC_ISC_MEAN]


def frechet_distance(own: np.ndarray, other: np.ndarray) -> float:
    """‖μ - μ'‖² + tr(Σ + Σ' - 2(ΣΣ')^½) of two sets of features, `n d` and `n' d` (n, n' ≥ 2).

    tr(ΣΣ')^½ = ‖A Bᵀ‖_* with Σ = AᵀA: the triangular factors of the centred features suffice, of which few frames
    give small ones; the usual root of a 2048² product takes half a minute and is singular there.
    """
    if min(len(own), len(other)) < 2:
        raise Unavailable(f"a spread needs at least 2 frames, given {len(own)} and {len(other)}")
    means, roots = [], []
    for features in (own.astype(np.float64), other.astype(np.float64)):
        means.append(features.mean(0))
        roots.append(np.linalg.qr((features - means[-1]) / np.sqrt(len(features) - 1), mode="r"))
    a, b = roots
    shared = np.linalg.norm(a @ b.T, "nuc")
    return float(max(0.0, ((means[0] - means[1]) ** 2).sum() + (a**2).sum() + (b**2).sum() - 2 * shared))


def stacked(gathered: Gathered) -> np.ndarray:
    """The frames of all clips one after the other, clips sorted by sample so that their order does not matter."""
    order = sorted(range(len(gathered.samples)), key=lambda place: gathered.samples[place])
    if not order:
        raise Unavailable("no clip could be read")
    return np.concatenate([gathered.features[place] for place in order])


def distance(own: Gathered, other: Gathered | None, what: str, first: int | None = None) -> Value:
    """The Fréchet distance of two sets by all of their features, or the ``first`` of them, or why there is none."""
    if other is None:
        return Value.unavailable(f"no {what} to compare with")
    return Value.told(lambda: frechet_distance(stacked(own)[:, :first], stacked(other)[:, :first]))


_SOURCE = "Inception: torch-fidelity (Obukhov et al. 2020)"
_FID_PITFALLS = (
    "A FID over frames: it knows nothing of time and is no FVD. Biased upward for few frames, so compare only sets "
    "with the same number of frames; below 2048 frames the covariance is singular. Frames are enlarged to 299 px."
)


class Inception(Learned["nn.Module"]):
    """Inception score of all frames, and their Fréchet distance to the step-0 frames and to the image set D_I."""

    weights = (INCEPTION,)
    infos = (
        MetricInfo.of(
            "inception_score",
            "visual",
            "exp E_x KL(p(y|x) ‖ p(y)) over all frames x of the set, mean of 10 parts",
            f"Salimans et al. 2016, as in EvalCrafter; {_SOURCE}",
            "Grows with the number of frames: compare only sets of equal size. It rewards ImageNet's classes; for "
            "a world of plain shapes it says little.",
            range=(1.0, 1008.0),
            needs=(INCEPTION.name,),
            scope="set",
        ),
        MetricInfo.of(
            "frame_fid_step0",
            "drift",
            "‖μ - μ₀‖² + tr(Σ + Σ₀ - 2(ΣΣ₀)^½) of Inception features of all frames and of all step-0 frames",
            f"Heusel et al. 2017; {_SOURCE}",
            _FID_PITFALLS,
            range=(0.0, None),
            direction="down",
            needs=(INCEPTION.name,),
            scope="set",
        ),
        MetricInfo.of(
            "frame_fid_images",
            "visual",
            "‖μ - μ_I‖² + tr(Σ + Σ_I - 2(ΣΣ_I)^½) of Inception features of all frames and of the images D_I",
            f"Heusel et al. 2017; {_SOURCE}",
            f"It falls also when frames copy D_I. {_FID_PITFALLS}",
            range=(0.0, None),
            direction="down",
            needs=(INCEPTION.name,),
            scope="set",
        ),
    )

    def load(self, paths: Sequence[Path], device: str) -> nn.Module:
        """torch-fidelity's network. It would unpickle anything, so the file is read safely first."""
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        state_dict(paths[0])
        wanted = ["2048", "logits_unbiased"]
        network = FeatureExtractorInceptionV3(
            "inception-v3-compat", wanted, feature_extractor_weights_path=str(paths[0])
        )
        return frozen(network, device)

    def features(self, clips: Sequence[Clip]) -> Sequence[np.ndarray | Value]:
        """2048 features and 1008 logits (without bias, as published) of every frame: float32 `t d+k`."""
        network, device = self.network(), pick_device(self.device)

        def both(frames: Tensor) -> Tensor:
            import torch

            return torch.cat(network(frames), dim=1)

        kept = through(both, clips, lambda clip: pixels(clip, device), chunk=self.chunk)
        return [one if isinstance(one, Value) else one.astype(np.float32) for one in kept]

    def combine(self, sets: Sets) -> Mapping[str, Value | Sequence[Value]]:
        """The three numbers; each says by itself why it cannot be had."""

        return {
            "inception_score": Value.told(lambda: inception_score(stacked(sets.own)[:, FEATURES:])),
            "frame_fid_step0": distance(sets.own, sets.reference, STEP_0, first=FEATURES),
            "frame_fid_images": distance(sets.own, sets.images, "images D_I", first=FEATURES),
        }
