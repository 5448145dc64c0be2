"""`python experiments/interpolation/compare.py`: frames made between others, against the true ones.

Clips of the embedded world lose every second frame, which is made again by flow (`perturb.study.between`), by blending
the neighbours and by repeating the one before. PSNR and SSIM are of the made frames alone, against the true ones;
motion quality is of the whole clip, minus that of the true one. Writes table.csv beside this file.
"""

from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

import perturb
from perturb.analysis.statistics.estimates import mean_interval
from perturb.metrics import Clip
from perturb.metrics.embedded.motion import MOTION
from perturb.metrics.embedded.perceptual import ssim
from perturb.study.between import filled
from perturb.world import render, scene
from perturb.world.render import Grade

SCENES, SEED = 32, 15
GRADES: tuple[Grade, ...] = ("low", "high")
RATES = {16: 17, 8: 9}  # frames per second of the true clip: its frames; half as many per second are kept


def blended(kept: np.ndarray) -> np.ndarray:
    made = ((kept[:-1].astype(float) + kept[1:]) / 2).round().astype(np.uint8)
    return _woven(kept, made)


def repeated(kept: np.ndarray) -> np.ndarray:
    return _woven(kept, kept[:-1])


def _woven(kept: np.ndarray, made: np.ndarray) -> np.ndarray:
    clip = np.empty((len(kept) + len(made), *kept.shape[1:]), np.uint8)
    clip[::2], clip[1::2] = kept, made
    return clip


METHODS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "flow": lambda kept: filled(kept, 2),
    "blend": blended,
    "repeat": repeated,
}


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    """10 log₁₀(255²/MSE) in dB."""
    return float(10 * np.log10(255**2 / np.square(one.astype(float) - other).mean()))


def motion(clips: list[np.ndarray], rate: int) -> np.ndarray:
    """Motion quality of each clip."""
    wrapped = [Clip(frames, rate, f"s{i:03d}", 0, 0) for i, frames in enumerate(clips)]
    scores = perturb.score(wrapped, [MOTION])
    return scores[scores.metric == "motion_quality"].value.to_numpy(float)


def main() -> None:
    """The command."""
    rows = []
    for rate, grade in product(RATES, GRADES):
        scenes = [scene(SEED, i, held_out=True) for i in range(SCENES)]
        true = [render(s, grade, frames=RATES[rate], fps=rate, noise_seed=i) for i, s in enumerate(scenes)]
        start = motion(true, rate)
        for method, make in METHODS.items():
            made = [make(clip[::2]) for clip in true]
            pairs = [(a[1::2], b[1::2]) for a, b in zip(made, true, strict=True)]
            found = {
                "PSNR (dB)": [psnr(a, b) for a, b in pairs],
                "SSIM": [np.mean([ssim(x, y) for x, y in zip(a, b, strict=True)]) for a, b in pairs],
                "motion quality − true": motion(made, rate) - start,
            }
            for measure, values in found.items():
                one = mean_interval(values)
                rows.append((rate, grade, method, measure, one.mean, one.low, one.high))
    columns = ["fps", "grade", "method", "measure", "mean", "low", "high"]
    table = pd.DataFrame(rows, columns=columns).round(4)
    table.to_csv(Path(__file__).parent / "table.csv", index=False)
    print(table.to_string())


if __name__ == "__main__":
    main()
