"""Prompts × LoRA seeds: how sure a mean over both is, for other prompts and other LoRAs. Pure numbers.

    x[s, p] = μ + a_p + b_s + e_sp        every LoRA seed sees every prompt

Neither one-way interval allows for both: in simulated studies the one over prompts covered .51 to .95 of 95 %, and that
over three LoRA seeds .83 to .95 (experiments/statistics).
"""

import numpy as np

from perturb.analysis.statistics.estimates import CONFIDENCE, Estimate
from perturb.analysis.statistics.resampling import Floats


def crossed_error(values: Floats) -> tuple[float, float]:
    """Standard error of the mean of s p, and its degrees of freedom.

        se² = (MS_p + MS_s − MS_ps)/(n_p n_s)
        df  = (MS_p + MS_s − MS_ps)²/(MS_p²/(n_p − 1) + MS_s²/(n_s − 1) + MS_ps²/((n_p − 1)(n_s − 1)))

    A component of variance that is estimated below 0 counts as 0: where MS_ps exceeds MS_p or MS_s, the larger of these
    two stands for all, with its own degrees of freedom. One LoRA seed, or one prompt, leaves the one-way error of the
    other; (NaN, NaN) where both are one. Source: Satterthwaite 1946; Searle, Casella and McCulloch 1992, ch. 4.

    >>> crossed_error(np.array([[1.0, 2.0, 3.0], [3.0, 4.0, 8.0]]))  # MS 6.5, 13.5, 1.5
    (1.7559422921421233, 1.67359413202934)
    """
    n_s, n_p = values.shape
    if min(n_s, n_p) < 1 or max(n_s, n_p) < 2:
        return np.nan, np.nan
    mean, by_seed, by_prompt = values.mean(), values.mean(axis=1, keepdims=True), values.mean(axis=0, keepdims=True)
    ms_p = n_s * float(((by_prompt - mean) ** 2).sum()) / max(n_p - 1, 1)
    ms_s = n_p * float(((by_seed - mean) ** 2).sum()) / max(n_s - 1, 1)
    ms_ps = float(((values - by_seed - by_prompt + mean) ** 2).sum()) / max((n_p - 1) * (n_s - 1), 1)
    if ms_ps >= min(ms_p, ms_s):
        variance, df = max((ms_p, n_p - 1), (ms_s, n_s - 1))
    else:
        variance = ms_p + ms_s - ms_ps
        df = variance**2 / (ms_p**2 / (n_p - 1) + ms_s**2 / (n_s - 1) + ms_ps**2 / ((n_p - 1) * (n_s - 1)))
    return (variance / (n_p * n_s)) ** 0.5, float(df)


def crossed_interval(values: Floats) -> Estimate:
    """Mean of s p ± t(0.975, df) · se of `crossed_error`; ``n`` counts the prompts."""
    if not values.size:
        return Estimate(np.nan, np.nan, 0)
    from scipy.special import stdtrit  # slow to import

    error, df = crossed_error(values)
    half = error * float(stdtrit(df, 0.5 + CONFIDENCE / 2)) if error > 0 else error
    return Estimate(float(values.mean()), half, values.shape[1])


def student_p(values: Floats) -> float:
    """Two-sided p of Student's t = mean/se with the error of `crossed_error`; NaN without spread: there is no test."""
    error, df = crossed_error(values)
    if not error > 0:
        return float("nan")
    from scipy.special import stdtr  # slow to import

    return float(2 * stdtr(df, -abs(float(values.mean())) / error))
