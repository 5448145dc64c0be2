"""When the frames of a film are shown, and which of them make up the same film at a constant rate."""

from collections.abc import Sequence

import numpy as np

PLAUSIBLE_FPS = (1.0, 240.0)
DRIFT = 0.25  # of a frame: by so much the times of a constant rate may wander; whole milliseconds are within it
REGULAR = 1.6  # times the typical distance of two frames: more is a pause; the pulldown of films has 3 : 2
NEAR = 0.01  # by which a varying rate may miss a whole number and still mean it


class Timeline:
    """Frames shown at ``times`` (seconds, ascending, different), the last one until ``end``, at a constant ``fps``.

    Frame k of the constant rate is the one that is shown at (k + ½) / fps: where the times are those of a constant
    rate, frame k itself; through a pause the frame before it. ``stated``: the rates that the container claims. ``end``
    None: the last frame lasts as long as any. ``fps`` given: the times are wrong, and frame k is frame k.

    >>> Timeline([0, 0.1, 0.2, 0.5]).shown([0, 1, 2, 3, 4, 5])
    [0, 1, 2, 2, 2, 3]
    """

    def __init__(
        self, times: Sequence[float], stated: Sequence[float] = (), end: float | None = None, fps: float | None = None
    ) -> None:
        self.times = np.asarray(times, dtype=np.float64) - times[0]
        self.by_number = fps is not None
        self.fps = nominal_rate(self.times, stated) if fps is None else fps
        self.count = len(self.times)
        if fps is None and plausible(self.fps):
            last = float(self.times[-1]) if end is None else end - times[0]
            self.count = max(round(last * self.fps) + (end is None), 1)

    def shown(self, numbers: Sequence[int]) -> list[int]:
        """Which of the film's own frames these frames of the constant rate are."""
        if self.by_number:
            return list(numbers)
        moments = (np.asarray(numbers, dtype=np.float64) + 0.5) / self.fps
        return (np.searchsorted(self.times, moments, side="right") - 1).clip(min=0).tolist()


def nominal_rate(times: np.ndarray, stated: Sequence[float] = ()) -> float:
    """Frames per second of a film with frames at these times, its pauses left out; 0 where nothing tells it.

    A stated rate that the times agree with, else that of the times: their mean distance among those near the typical
    one, which a quarter of the frames keep or surpass (what joins equal frames, as gifs do, only lengthens distances).
    """
    steps = np.diff(times)
    if not len(steps):
        return next((rate for rate in stated if plausible(rate)), 0.0)
    typical = float(np.quantile(steps, 0.25, method="lower"))
    regular = steps[(steps <= REGULAR * typical) & (steps >= typical / REGULAR)]
    found = float(1 / regular.mean())
    whole = float(round(found))
    for rate in (*stated, whole, found):
        if rate > 0 and abs(rate / found - 1) < 5 * NEAR and _constant(times, rate):
            return rate
    return whole if whole and abs(found / whole - 1) < NEAR else round(found, 3)


def plausible(fps: float) -> bool:
    """Whether a video can have this many frames per second (NaN cannot)."""
    return PLAUSIBLE_FPS[0] <= fps <= PLAUSIBLE_FPS[1]


def _constant(times: np.ndarray, rate: float) -> bool:
    return bool((np.abs(times * rate - np.arange(len(times))) <= DRIFT).all())
