"""ColorVideoVDP: how visible is the difference from the clip of step 0 to people who watch both? Axes: t h w c."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from perturb.metrics.base import Clip, Context, MetricInfo, Value, score_each
from perturb.metrics.embedded.perceptual import paired
from perturb.metrics.learned.network import Learned
from perturb.metrics.learned.weights import packaged

CVVDP = packaged(
    "cvvdp",
    "pycvvdp/vvdp_data/cvvdp_parameters.json",
    "ef4dedb44f11f33f509ea3d6d204bb23b03917259b8efbc077009ce53211762b",
)
DISPLAY = "standard_fhd"  # a 24-inch monitor of 1920×1080 at .6 m: 38 pixels per degree
BEST = 10.0  # JOD of no difference


class ColorVideoVdp(Learned[Any]):
    """Just-objectionable differences from the step-0 clip."""

    paired = True
    weights = (CVVDP,)
    packages = ("cvvdp",)  # it is the metric
    infos = (
        MetricInfo.of(
            "cvvdp_drift",
            "drift",
            "10 - ColorVideoVDP (JOD) of the clip against that of the same prompt and noise at step 0",
            "Mantiuk et al. 2024 (cvvdp), display standard_fhd",
            "Compares frame by frame, as seen on a 24-inch screen at 38 pixels per degree: the same scene on "
            "another path counts in full, as a static clip does (6). Blur of 2.5 px 3, noise of .1 3, a mark of "
            "opacity .4 3; but 10 for colour taken away and 12 for flicker of ±10 %, more than the 11 of unrelated "
            "clips: beyond 8 or so it says no more than that all is different.",
            unit="JOD",
            range=(0.0, None),
            direction="down",
            needs=(CVVDP.name,),
            depends=("fps", "size"),
        ),
    )

    def load(self, paths: Sequence[Path], device: str) -> Any:
        """The package's metric; what importing it adds to the search path of modules is taken off again."""
        import torch

        before = list(sys.path)
        try:
            from pycvvdp import cvvdp
        finally:
            sys.path[:] = before
        return cvvdp(display_name=DISPLAY, device=torch.device(device), quiet=True)

    def __call__(self, clips: Sequence[Clip], context: Context) -> Mapping[str, Sequence[Value]]:
        import torch

        network = self.network()

        def measure(clip: Clip) -> Mapping[str, float]:
            own, original = paired(clip, context)
            with torch.inference_mode():
                found, _ = network.predict(own, original, dim_order="FHWC", frames_per_second=clip.fps)
            return {"cvvdp_drift": BEST - float(found)}

        return score_each(self.infos, clips, measure)
