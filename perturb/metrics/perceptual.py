"""Drift: how far a clip has moved from the clip of the same prompt and noise at step 0.

Axes: t frames, h w pixels, c channels.
"""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from skimage.metrics import structural_similarity

from perturb.errors import UserError
from perturb.metrics.base import Clip, ClipMetric, Context, MetricInfo, Unavailable, Value, score_each

if TYPE_CHECKING:
    import torch

ALEXNET = "alexnet-owt-7be5be79.pth"
ALEXNET_URL = f"https://download.pytorch.org/models/{ALEXNET}"
ALEXNET_LAYERS = (0, 3, 6, 8, 10)
SSIM_WINDOW = 7


def paired(clip: Clip, context: Context) -> tuple[np.ndarray, np.ndarray]:
    """The frames of the clip and of its step-0 original. Unavailable without one; UserError when the shapes differ."""
    original = context.original(clip).frames
    if original.shape != clip.frames.shape:
        raise UserError(f"the step-0 clip has shape {original.shape}, this one {clip.frames.shape}: cannot compare")
    return clip.frames, original


def measure_ssim(clip: Clip, context: Context) -> Mapping[str, float]:
    """1 - mean over frames of SSIM(frame, step-0 frame), RGB, 7×7 window: 0 for the same clip."""
    frames, original = paired(clip, context)
    if min(frames.shape[1:3]) < SSIM_WINDOW:
        raise UserError(f"SSIM needs frames of at least {SSIM_WINDOW} px, not {frames.shape[2]}×{frames.shape[1]}")
    similarity = [
        structural_similarity(now, before, channel_axis=-1, data_range=255, win_size=SSIM_WINDOW)
        for now, before in zip(frames, original, strict=True)
    ]
    return {"ssim_drift": 1 - float(np.mean(similarity))}


SSIM_DRIFT = ClipMetric(
    (
        MetricInfo(
            "ssim_drift",
            "drift",
            "1",
            (0.0, 2.0),
            "down",
            (),
            "1 - mean SSIM with the clip of the same prompt and noise at step 0",
            "Wang et al. 2004 (scikit-image)",
        ),
    ),
    measure_ssim,
    version=1,
    paired=True,
)


def trunk_path() -> Path:
    """Where torchvision's AlexNet weights are looked for: `$TORCH_HOME/hub/checkpoints/`."""
    import torch

    return Path(torch.hub.get_dir()) / "checkpoints" / ALEXNET


def load_lpips(path: Path) -> "torch.nn.Module":
    """LPIPS v0.1 with the AlexNet trunk read from torchvision's file and the heads of the lpips wheel; no download.

    UserError for a file that is not such a state dict. The caller's random state is left as it was.
    """
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        import lpips

        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torchvision's notes on `pretrained`, which lpips still passes
            network = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
        trunk = dict(network.net.named_parameters())
        # lpips keeps torchvision's layer numbers inside slice1 … slice5, one convolution in each
        for number, layer in enumerate(ALEXNET_LAYERS, start=1):
            for kind in ("weight", "bias"):
                trunk[f"slice{number}.{layer}.{kind}"].data.copy_(state[f"features.{layer}.{kind}"])
    except Exception as error:
        raise UserError(
            f"{path} is not torchvision's AlexNet state dict ({error}); get it from {ALEXNET_URL}"
        ) from error
    return network.eval().requires_grad_(False)


class LpipsDrift:
    """Mean LPIPS distance to the clip of the same prompt and noise at step 0; the network is loaded at first use."""

    paired, batched = True, True
    infos: tuple[MetricInfo, ...] = (
        MetricInfo(
            "lpips_drift",
            "drift",
            "1",
            (0.0, None),
            "down",
            (ALEXNET,),
            "mean LPIPS v0.1 (AlexNet) with the clip of the same prompt and noise at step 0",
            "Zhang et al. 2018 (lpips)",
        ),
    )

    def __init__(self, *, device: str = "cpu") -> None:
        self.device = device
        self._loaded: tuple[Path, torch.nn.Module] | None = None

    def __call__(self, clips: Sequence[Clip], context: Context) -> Mapping[str, Sequence[Value]]:
        return score_each(self.infos, clips, lambda clip: {"lpips_drift": self._distance(clip, context)})

    def identity(self) -> Mapping[str, Any]:
        """The version, and the weights by their name, which ends in their hash. Unavailable without them."""
        self._network()
        return {"version": 1, "weights": ALEXNET}

    def _network(self) -> "torch.nn.Module":
        path = trunk_path()
        if self._loaded is None or self._loaded[0] != path:
            if not path.is_file():
                # the reason goes into scores.csv, which people share: no home folder in it
                shown = str(path).replace(str(Path.home()), "~", 1)
                raise Unavailable(f"AlexNet weights not found: looked for {shown}; get them from {ALEXNET_URL}")
            self._loaded = path, load_lpips(path).to(self.device)
        return self._loaded[1]

    def _distance(self, clip: Clip, context: Context) -> float:
        network = self._network()
        import torch

        frames, original = (
            (torch.from_numpy(one).permute(0, 3, 1, 2).to(self.device).float() / 127.5 - 1)
            for one in paired(clip, context)
        )
        with torch.inference_mode():
            return float(network(frames, original).mean())
