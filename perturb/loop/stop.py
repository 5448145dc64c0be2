"""Being asked to stop: after SIGTERM (pre-emption) or SIGINT (Ctrl-C) a training ends its step, saves and leaves.

What has no state to save leaves at once.
"""

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType

from perturb.arguments import AGAIN
from perturb.loop.rank import processes

STOPPED = 75  # of the command that was asked to stop and can be given again; "temporary failure" in sysexits.h
SIGNALS = (signal.SIGTERM, signal.SIGINT)
GRACE = 5.0
"""Seconds in which more signals are the same request: a scheduler signals torchrun and its processes, and torchrun
passes on what it got."""


class Stopped(Exception):
    """The training was asked to stop after ``step`` steps; its state is in ``folder``."""

    def __init__(self, step: int, folder: Path) -> None:
        super().__init__(f"stopped after step {step}; the state is in {folder}. The same command goes on from there.")
        self.step, self.folder = step, folder


class Terminated(KeyboardInterrupt):
    """SIGTERM came where no training had a state to save; what is finished is on disk."""


class StopRequest:
    """Whether one of ``signals`` has come; ``action`` is what is done when the first does."""

    def __init__(self, signals: Sequence[signal.Signals] = SIGNALS, action: Callable[[], None] | None = None) -> None:
        self.signals, self.action = signals, action
        self.requested = False
        self._since = 0.0

    @contextlib.contextmanager
    def listening(self) -> "Iterator[StopRequest]":
        """Note the first signal; one after `GRACE` acts as it would have without us.

        Signals reach the main thread only.
        """
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.getsignal(number) for number in self.signals}

        def note(number: int, frame: FrameType | None) -> None:
            del frame
            if not self.requested:
                self.requested, self._since = True, time.monotonic()
                if self.action is not None:
                    self.action()
            elif time.monotonic() - self._since > GRACE:
                _restore()
                signal.raise_signal(number)

        def _restore() -> None:
            for number, handler in before.items():
                signal.signal(number, handler)

        for number in self.signals:
            signal.signal(number, note)
        try:
            yield self
        finally:
            _restore()


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Raise Terminated at SIGTERM, except in a training, which saves first.

    One of several processes may wait for the others, where Python hears no signal: torchrun ends these.
    """
    if processes() > 1:
        yield
        return

    def leave() -> None:
        raise Terminated(AGAIN)

    with StopRequest((signal.SIGTERM,), leave).listening():
        yield
