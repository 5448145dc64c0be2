"""`python experiments/samplers/sheets.py`: what each sampler makes of two prompts on nano_full, as sheets for eyes.

Longer clips show every fourth frame, larger ones are halved. Writes sheet_*.png beside this file.
"""

import sys
from pathlib import Path

import numpy as np

import perturb
from perturb.diffusion import DDIMSampler
from perturb.diffusion.fifo import FIFOSampler
from perturb.diffusion.freenoise import FreeNoiseSampler
from perturb.diffusion.scalecrafter import ScaleCrafterSampler
from perturb.diffusion.solvers import DPMSolverSampler, UniPCSampler
from perturb.store.video import write_contact_sheet

PROMPTS = ["a red circle moving left slowly on a gray background", "a blue star moving up fast on a black background"]
WIDER = {"down.1.*": 2.0, "middle.*": 2.0, "up.0.*": 2.0}
LONG, LARGE = {"frames": 32}, {"height": 128, "width": 128}
SHEETS = {
    "ddim": [(DDIMSampler(steps=steps), {}) for steps in (20, 5)],
    "dpm_solver": [(DPMSolverSampler(steps=steps), {}) for steps in (20, 5)],
    "unipc": [(UniPCSampler(steps=steps), {}) for steps in (20, 5)],
    "freenoise": [(DDIMSampler(), LONG), (FreeNoiseSampler(), LONG)],
    "fifo": [(FIFOSampler(), LONG)],
    "scalecrafter": [
        (DDIMSampler(), LARGE),
        (ScaleCrafterSampler(steps=20, dilation=WIDER, dilated_steps=8), LARGE),
    ],
}


def main() -> None:
    """The command; arguments choose sheets."""
    model = perturb.load("nano_full")
    for name in sys.argv[1:] or SHEETS:
        rows = []
        for sampler, settings in SHEETS[name]:
            for clip in model.sample(PROMPTS, sampler=sampler, **settings):
                frames = clip.frames[:: len(clip.frames) // 8]
                large = frames.shape[1] // 64
                small = frames.reshape(8, 64, large, 64, large, 3).mean((2, 4)).round().astype(np.uint8)
                rows.append(small)
        write_contact_sheet(Path(__file__).parent / f"sheet_{name}.png", rows)


if __name__ == "__main__":
    main()
