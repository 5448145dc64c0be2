"""`python experiments/samplers/tiling.py`: frames decoded in tiles against frames decoded at once.

Mosaics of 5×5 high-grade stills of the embedded world, 320×320, encoded by nano's autoencoder (trained on 64×64). PSNR
in dB: of the tiled frame against the untiled one, everywhere and within 4 pixels of a tile's edge, and of both against
the still. Writes tiling.csv beside this file.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from einops import rearrange
from torch import Tensor

from perturb.models import tiling
from perturb.models.videocrafter.checkpoint import load_system
from perturb.world import render_still, scene

COUNT, ROWS, SEED = 8, 5, 15
NEAR = 4  # pixels from the edge of a tile


def psnr(one: Tensor, other: Tensor) -> float:
    """10 log₁₀(4/MSE) of frames in [−1, 1]."""
    return float(10 * torch.log10(4 / (one - other).square().mean()))


def main() -> None:
    """The command."""
    system = load_system("package:weights/nano/full")
    stills = np.stack([render_still(scene(SEED, i), "high", noise_seed=i) for i in range(COUNT * ROWS**2)])
    video = torch.from_numpy(stills).float().div(127.5).sub(1)
    video = rearrange(video, "(b r s) h w c -> b c 1 (r h) (s w)", r=ROWS, s=ROWS)
    latents, rows = system.encode(video), []
    whole = system.decode(latents)
    for size in (8, 16, 32):
        for overlap in (10**6, 8, 4, 2):  # one in so many; a million: none
            tiling.OVERLAP = overlap
            made = tiling.decode_in_tiles(system.decode, latents, size)
            starts = tiling._starts(latents.shape[-1], size)
            edges = torch.tensor(sorted({8 * x for s in starts for x in (s, s + size)} - {0, whole.shape[-1]}))
            near = ((torch.arange(whole.shape[-1])[:, None] - edges).abs() <= NEAR).any(1)
            rows.append(
                {
                    "tile": 8 * size,
                    "overlap": 8 * (size // overlap),
                    "tiles": len(starts) ** 2,
                    "against_untiled": psnr(made, whole),
                    "at_the_edges": psnr(made[..., near], whole[..., near]),
                    "against_still": psnr(made, video),
                    "untiled_against_still": psnr(whole, video),
                }
            )
    table = pd.DataFrame(rows).round(2)
    table.to_csv(Path(__file__).parent / "tiling.csv", index=False)
    print(table.to_string())


if __name__ == "__main__":
    main()
