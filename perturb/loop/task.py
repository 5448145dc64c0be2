"""What a training or a fit consists of, as the loop sees it, and what comes out."""

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from perturb.loop.config import LoopConfig, StageConfig
from perturb.loop.journal import Row, csv_text


class Batches(Protocol):
    """What one stage sees."""

    def load(self, step: int, places: range) -> Any:
        """What ``inputs`` needs for ``places`` of the global batch of ``step`` (from 0, within the stage)."""
        ...

    def inputs(self, step: int, places: range, loaded: Any) -> tuple[Any, ...]:
        """The objective's arguments from what ``load`` gave: draws, and the work of frozen encoders."""
        ...

    def expect(self, step: int, places: range) -> None:
        """``load`` will be asked for these next: a chance to begin meanwhile."""
        ...

    def digest(self, steps: int, gather: Callable[[list[Any]], list[Any]]) -> str:
        """SHA-256 of the samples and draws of the first ``steps`` steps, all of them seen.

        ``gather`` joins what the processes hold; all of them call this together.
        """
        ...

    def state(self, gather: Callable[[list[Any]], list[Any]]) -> dict[str, Any]:
        """Where the data of this process is, after the last samples that were loaded; ``gather`` as above."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None: ...


class Drawn:
    """The part of `Batches` that is empty where a batch is a function of its step: nothing is awaited, nothing kept."""

    def expect(self, step: int, places: range) -> None:
        """Nothing to begin with."""

    def state(self, gather: Callable[[list[Any]], list[Any]]) -> dict[str, Any]:
        """Nothing: a step says it all."""
        del gather
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Nothing to take up."""


class Probe(Protocol):
    """Called in the main process after each of ``steps`` (0: before the first); what it returns joins the row."""

    @property
    def steps(self) -> Container[int]: ...

    def __call__(self, step: int) -> Row: ...


class Validation(Protocol):
    """Measured every ``every`` steps with the averaged weights; a lower "loss" is better."""

    every: int

    def __call__(self, step: int) -> Row: ...


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a training goes, whatever it trains.

    ``identity``: whatever else makes it this training and no other, as plain values. ``section``: where in the
    configuration a user finds the settings of ``loop``. ``text``: content of train.csv from its rows.
    """

    stages: Sequence[StageConfig]
    batches: Callable[[int], Batches]
    loop: LoopConfig
    seed: int
    folder: Path
    title: str
    identity: Mapping[str, Any]
    validation: Validation | None = None
    probe: Probe | None = None
    section: str = "loop"
    text: Callable[[Sequence[Row]], str] = csv_text


@dataclass(frozen=True, kw_only=True)
class Task(Training):
    """What the loop is given. ``objective``: micro-batch → losses whose mean is minimised.

    ``trained``: the names of the objective's parameters that move, in the order in which the optimiser holds them.
    """

    objective: nn.Module
    trained: Sequence[str]


@dataclass(frozen=True)
class Outcome:
    """The last logged row, the digest of the sample stream, and seconds by what they were spent on."""

    last: Row
    stream: str
    seconds: Row
    shares: Row
    best: int | None
