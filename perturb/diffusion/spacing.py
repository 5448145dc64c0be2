"""Which timesteps a sampler visits, ascending; T is the number of timesteps of the schedule."""

from typing import Literal, get_args

import numpy as np

from perturb.errors import UserError

Spacing = Literal["uniform", "trailing", "linspace", "log_snr"]


def check_spacing(spacing: str) -> None:
    """Raise UserError unless ``spacing`` is one of `Spacing`."""
    if spacing not in get_args(Spacing):
        raise UserError(f"sampler.spacing is {spacing!r}; allowed: {', '.join(get_args(Spacing))}")


def trailing(timesteps: int, steps: int) -> list[int]:
    """τ = round(T, T − T/S, T − 2T/S, …) − 1: exactly S timesteps, the last one T − 1.

    Source: Lin et al. 2023 (arXiv 2305.08891) §3.3, as DynamiCrafter's code computes it (halves round to even).
    """
    _check(timesteps, steps)
    return [int(t) for t in np.round(np.arange(timesteps, 0, -timesteps / steps))[:steps][::-1] - 1]


def linspace(timesteps: int, steps: int) -> list[int]:
    """τ = round(linspace(0, T − 1, S)): both ends are visited. Source: FIFO-Diffusion's code (halves round to even)."""
    _check(timesteps, steps)
    return [int(t) for t in np.round(np.linspace(0, timesteps - 1, steps))]


def log_snr(signal_to_noise: np.ndarray, steps: int) -> list[int]:
    """The timesteps nearest to S equal steps of λ = log(√ᾱ s/√(1 − ᾱ)) from T − 1 towards 0, which is not among them.

    Timesteps are whole: of more than about 30 some coincide and count once. signal_to_noise: √ᾱ s/√(1 − ᾱ) by
    timestep. Source: Lu et al. 2022 (arXiv 2206.00927) §4.
    """
    _check(len(signal_to_noise), steps)
    table = np.log(signal_to_noise)
    wanted = np.linspace(table[-1], table[0], steps + 1)[:-1]
    return sorted({int(np.abs(table - value).argmin()) for value in wanted})


def consistency(timesteps: int, steps: int, origin_steps: int) -> list[int]:
    """Every (O // n)-th from the top of the O timesteps c, 2c, …, O·c, each minus 1, with c = T // O; n of them.

    Source: Luo et al. 2023 (LCM, arXiv 2310.04378) and T2V-Turbo's code. UserError unless 1 ≤ n ≤ O ≤ T.
    """
    if not 1 <= steps <= origin_steps <= timesteps:
        raise UserError(
            f"sampler.steps is {steps} and sampler.origin_steps {origin_steps}; allowed: 1 ≤ steps ≤ origin_steps ≤ "
            f"{timesteps}"
        )
    origin = [i * (timesteps // origin_steps) - 1 for i in range(1, origin_steps + 1)]
    return origin[:: -(origin_steps // steps)][:steps][::-1]


def _check(timesteps: int, steps: int) -> None:
    if not 1 <= steps <= timesteps:
        raise UserError(f"{steps} sampling steps do not fit a schedule of {timesteps} timesteps; at most {timesteps}")
