"""What a training says about itself while it runs: two csv files, the trackers, and where the time went."""

import contextlib
import csv
import io
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from perturb.store.rundir import write_atomic

Row = dict[str, float]
STEP = ("data", "encoding", "compute", "logging")
"""What a step spends time on: waiting for samples, frozen encoders, forward and backward with the optimiser, logs."""

SECTIONS = (*STEP, "validation", "saving")


class Clock:
    """Seconds spent in each of `SECTIONS`, in all the pieces that a training was interrupted into.

    A GPU works through a queue: its work is waited for, or it would count for whoever comes next.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: Row = dict.fromkeys(SECTIONS, 0.0)

    @contextlib.contextmanager
    def section(self, name: str) -> Iterator[None]:
        """Count the time inside for ``name``."""
        begin = time.monotonic()
        try:
            yield
        finally:
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            self.seconds[name] += time.monotonic() - begin

    @property
    def total(self) -> float:
        """Seconds in all sections."""
        return sum(self.seconds.values())

    def shares(self) -> Row:
        """Share of a training step in each section of `STEP`; they add up to 1."""
        step = {name: self.seconds[name] for name in STEP}
        whole = sum(step.values())
        return {name: seconds / whole if whole else 0.0 for name, seconds in step.items()}


class Journal:
    """train.csv and validation.csv in ``folder``, rewritten whole and atomically, and the trackers of accelerate.

    ``text`` makes the content of train.csv from its rows.
    """

    def __init__(self, folder: Path, accelerator: Accelerator, text: Callable[[Sequence[Row]], str]) -> None:
        self.folder, self.accelerator, self.text = folder, accelerator, text
        self.clock = Clock(accelerator.device)
        self.tables: dict[str, list[Row]] = {"train": [], "validation": []}
        accelerator.init_trackers("perturb")

    def write(self, table: str, row: Row, *, file: bool = True) -> None:
        """Add a row with its "step" to a table and to the trackers; with ``file`` also write the table's file."""
        self.tables[table].append(row)
        values = {f"{table}/{name}": value for name, value in row.items() if name != "step"}
        self.accelerator.log(values, step=int(row["step"]))
        if file and self.accelerator.is_main_process:
            text = self.text if table == "train" else csv_text
            write_atomic(self.folder / f"{table}.csv", text(self.tables[table]))

    def state(self) -> dict[str, Any]:
        """For the checkpoint; `restore` takes it."""
        return {"tables": self.tables, "seconds": self.clock.seconds}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint: rows that were logged after it are logged again."""
        self.tables = {name: list(rows) for name, rows in state["tables"].items()}
        self.clock.seconds |= state["seconds"]


def csv_text(rows: Sequence[Row]) -> str:
    """The rows with a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
