"""Metrics that need trained networks: found in a folder or a cache, never downloaded; `unavailable` without weights."""

from collections.abc import Mapping, Sequence

from perturb.errors import UserError
from perturb.metrics.base import Metric, SetMetric
from perturb.metrics.embedded.flicker import VBENCH_FLICKER
from perturb.metrics.learned.aesthetic import Aesthetic
from perturb.metrics.learned.clip import ClipFrames
from perturb.metrics.learned.cvvdp import ColorVideoVdp
from perturb.metrics.learned.dino import Dino
from perturb.metrics.learned.efficientnet import EfficientNet
from perturb.metrics.learned.imported import SLOTS, Imported
from perturb.metrics.learned.inception import Inception
from perturb.metrics.learned.lpips import Lpips
from perturb.metrics.learned.musiq import Musiq
from perturb.metrics.learned.network import Learned
from perturb.metrics.learned.raft import Raft
from perturb.metrics.learned.rife import Rife
from perturb.metrics.learned.stlpips import ShiftTolerant
from perturb.metrics.learned.text import RestingText
from perturb.metrics.learned.transnet import TransNet

__all__ = ["Learned", "learned_metrics", "packaged_metrics"]


def packaged_metrics(*, device: str = "auto") -> list[Metric | SetMetric]:
    """Those whose weights come with a package, `perturb[learned]` or this one: nothing has to be fetched."""
    kinds = (ShiftTolerant, ColorVideoVdp, EfficientNet, Rife, TransNet, RestingText)
    return [kind(device=device) for kind in kinds]


def learned_metrics(
    *,
    device: str = "auto",
    weights: str | None = None,
    lpips: Sequence[str] = ("alex",),
    imported: Mapping[str, str | None] | None = None,
) -> list[Metric | SetMetric]:
    """Every metric with a network, the slots that the user may fill, and VBench's flicker, a part of its aggregate.

    They are built without any weights, which are looked for at first use.
    device: "auto" is a GPU where there is one. weights: a folder searched before torch's and Hugging Face's caches.
    lpips: its trunks, "alex" and "vgg". imported: slot → dotted path of a function. UserError for an unknown slot.
    """
    given = dict(imported or {})
    if unknown := [name for name in given if name not in SLOTS]:
        raise UserError(f"metrics.imported.{unknown[0]} is no such metric; allowed: {', '.join(SLOTS)}")
    return [
        *packaged_metrics(device=device),
        *(Lpips(net=net, device=device, weights=weights) for net in lpips),
        Raft(device=device, weights=weights),
        Dino(device=device, weights=weights),
        ClipFrames(device=device, weights=weights),
        Aesthetic(device=device, weights=weights),
        Inception(device=device, weights=weights),
        Musiq(device=device, weights=weights),
        VBENCH_FLICKER,
        *(Imported(name, function=given.get(name)) for name in SLOTS),
    ]
