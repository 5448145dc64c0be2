"""The states of a study: its points, each with an id that names its folders, and what it is in coordinates.

A fit has states along its steps, a landscape one per pair of scales, an ablation one per part of the network, a list of
adapters one per adapter. states.csv has a row per state: the id, a column per coordinate, ‖Δ‖/‖θ‖, the loss on D_I.
The first state is the model as it was, with which all others are compared.
"""

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from perturb.errors import UserError

Coordinate = int | float | str
STATE, MAGNITUDE, LOSS = "state", "magnitude", "loss"
STEP = "step"
"""The one coordinate of a state along a fit."""
STEP_PATTERN = re.compile(r"step_(\d+)")
"""The id of such a state."""


@dataclass(frozen=True)
class State:
    """One point of a study.

    ``magnitude`` is ‖Δ‖_F/‖θ‖_F over the targeted weights, ``loss`` the model's on D_I; None where it is not known.
    """

    id: str
    coordinates: Mapping[str, Coordinate]
    magnitude: float | None = None
    loss: float | None = None

    @staticmethod
    def of(coordinates: Mapping[str, Coordinate], magnitude: float | None = None) -> "State":
        """A state named after its coordinates, so that its folders can be read.

        >>> State.of({"step": 300}).id, State.of({"spatial": 0.5, "temporal": 1.0}).id, State.of({"part": "up key"}).id
        ('step_000300', 'spatial_0.5_temporal_1', 'part_up-key')
        """
        return State("_".join(f"{name}_{_name(value)}" for name, value in coordinates.items()), coordinates, magnitude)

    @property
    def label(self) -> str:
        """Its coordinates as a reader meets them.

        >>> State.of({"step": 300}).label, State.of({"spatial": 0.5, "temporal": 1.0}).label
        ('300', '0.5, 1')
        """
        return ", ".join(value if isinstance(value, str) else f"{value:g}" for value in self.coordinates.values())


def steps(states: Iterable[State]) -> dict[int, State]:
    """The states along a fit by their step; none when they have other coordinates."""
    return {int(state.coordinates[STEP]): state for state in states if tuple(state.coordinates) == (STEP,)}


def step_state(step: int, magnitude: float | None = None) -> State:
    """The state after ``step`` fitting steps."""
    return State.of({STEP: step}, magnitude)


def step_id(step: int) -> str:
    """Its id."""
    return step_state(step).id


def states_csv(states: Sequence[State]) -> str:
    """states.csv as text, in the order given. Raises UserError for two states of one id."""
    ids = [state.id for state in states]
    if twice := sorted({each for each in ids if ids.count(each) > 1}):
        raise UserError(f"two states have the name {twice[0]}; give states whose coordinates differ")
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)  # text is quoted, numbers are not
    writer.writerow([STATE, *states[0].coordinates, MAGNITUDE, LOSS])
    writer.writerows([state.id, *state.coordinates.values(), state.magnitude, state.loss] for state in states)
    return buffer.getvalue()


def read_states(path: Path) -> list[State]:
    """The rows of a states.csv. Raises UserError when it is none."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file, quoting=csv.QUOTE_NONNUMERIC)
    except ValueError as error:
        raise UserError(f"{path} is no table of states ({error}). Run the study again.") from None
    measured = 2 if header[-1:] == [LOSS] else 1  # earlier runs have no loss
    if header[:1] != [STATE] or header[-measured:][:1] != [MAGNITUDE] or any(len(r) != len(header) for r in rows):
        raise UserError(f"{path} has the columns {header}; expected {STATE}, coordinates, {MAGNITUDE}, {LOSS}.")
    names = header[1:-measured]
    return [
        State(str(row[0]), dict(zip(names, map(_value, row[1:-measured]), strict=True)), *map(_size, row[-measured:]))
        for row in rows
    ]


def _name(value: Coordinate) -> str:
    if isinstance(value, str):
        return re.sub(r"[^\w.+-]", "-", value)
    return f"{value:06d}" if isinstance(value, int) else f"{value:g}"


def _value(read: str | float) -> Coordinate:
    return int(read) if isinstance(read, float) and read.is_integer() else read


def _size(read: str | float) -> float | None:
    return None if read == "" else float(read)
