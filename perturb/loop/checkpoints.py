"""Resumable states of a training: whole or absent, the last few and the best.

work/checkpoints/step_000250/  accelerate's files (optimiser, schedule, scaler, random states of every rank; under FSDP2
                               also the weights, in shards), weights/ and ema/ (torch.distributed.checkpoint; what is
                               frozen is not written), local_<rank>.pt (where the data is), loop.json (step, logs)
work/checkpoints/best.json     which of them had the lowest validation loss
"""

import json
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from accelerate import Accelerator
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException

from perturb.disks import free_room, is_full
from perturb.errors import UserError
from perturb.loop.ema import Ema
from perturb.store.rundir import write_atomic
from perturb.store.states import STEP_PATTERN

LOOP, BEST = "loop.json", "best.json"
UNFINISHED = ".new_"


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints in ``folder`` of a training that ``accelerator`` prepared; all processes call every method.

    ``trained``: name → weight of all that moves.
    """

    folder: Path
    accelerator: Accelerator
    trained: Mapping[str, Tensor]
    ema: Ema
    keep_last: int

    def __post_init__(self) -> None:
        # accelerate would write whole networks, of which most may be frozen; under FSDP2 it does not ask these
        self.accelerator.register_save_state_pre_hook(lambda models, weights, folder: weights.clear())
        self.accelerator.register_load_state_pre_hook(lambda models, folder: models.clear())

    def steps(self) -> list[int]:
        """The steps that have a whole checkpoint, ascending."""
        found = (STEP_PATTERN.fullmatch(path.name) for path in self.folder.glob("step_*"))
        return sorted(int(match[1]) for match in found if match)

    def path(self, step: int) -> Path:
        """Where the checkpoint after ``step`` steps lies."""
        return self.folder / f"step_{step:06d}"

    def save(self, step: int, state: dict[str, Any], local: dict[str, Any], *, best: bool) -> None:
        """Write the state after ``step`` steps; ``state`` is common to all processes, ``local`` belongs to this one.

        Written beside its place and renamed. UserError when the disk is full; what was there before stays whole.
        """
        target = self.path(step)
        if not target.is_dir():
            temporary = self.folder / f"{UNFINISHED}{target.name}"
            self._begin(temporary)
            try:
                self._write(temporary, state, local)
            except (OSError, RuntimeError, SafetensorError, CheckpointException) as error:
                shutil.rmtree(temporary, ignore_errors=True)
                raise self._explained(error, target) from error
            self.accelerator.wait_for_everyone()
            if self.accelerator.is_main_process:
                temporary.replace(target)
        if self.accelerator.is_main_process:
            if best:
                write_atomic(self.folder / BEST, json.dumps({"step": step}) + "\n")
            self._prune()
        self.accelerator.wait_for_everyone()

    def load(self, step: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """Take up the checkpoint after ``step`` steps; returns ``state`` and ``local`` as they were saved."""
        path = self.path(step)
        self.accelerator.wait_for_everyone()
        self.accelerator.load_state(str(path))
        self._tensors(dcp.load, path)
        local = torch.load(path / f"local_{self.accelerator.process_index}.pt", weights_only=True)
        return self.state(step), local

    def state(self, step: int) -> dict[str, Any]:
        """What all processes have in common, without loading any weights."""
        return json.loads((self.path(step) / LOOP).read_text(encoding="utf-8"))

    def best(self) -> int | None:
        """The step with the lowest validation loss, None before the first validation."""
        path = self.folder / BEST
        return json.loads(path.read_text(encoding="utf-8"))["step"] if path.is_file() else None

    def _tensors(self, save_or_load: Callable[..., Any], folder: Path) -> None:
        """Write weights and their average to their places, or read them from there into the tensors that hold them."""
        weights = {} if self.accelerator.is_fsdp2 else {name: tensor.detach() for name, tensor in self.trained.items()}
        alone = self.accelerator.num_processes == 1
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")  # that is what no_dist says
            for name, tensors in (("weights", weights), ("ema", self.ema.shadow)):
                if tensors:
                    save_or_load(tensors, checkpoint_id=folder / name, no_dist=alone)

    def _begin(self, temporary: Path) -> None:
        if self.accelerator.is_main_process:
            for leftover in self.folder.glob(f"{UNFINISHED}*"):  # of a process that was killed while writing
                shutil.rmtree(leftover, ignore_errors=True)
            temporary.mkdir(parents=True)
        self.accelerator.wait_for_everyone()

    def _write(self, folder: Path, state: dict[str, Any], local: dict[str, Any]) -> None:
        self.accelerator.save_state(str(folder))
        self._tensors(dcp.save, folder)
        torch.save(local, folder / f"local_{self.accelerator.process_index}.pt")
        if self.accelerator.is_main_process:
            write_atomic(folder / LOOP, json.dumps(state) + "\n")

    def _prune(self) -> None:
        """Remove all but the last ``keep_last`` and the best."""
        for step in self.steps()[: -self.keep_last]:
            if step != self.best():
                shutil.rmtree(self.path(step), ignore_errors=True)

    def _explained(self, error: BaseException, target: Path) -> BaseException:
        if not is_full(error):
            return error
        before = self.steps()
        kept = f"the last whole one is {self.path(before[-1])}" if before else "there is none before it"
        return UserError(
            f"the disk is full: {target} could not be written ({free_room(self.folder)}); {kept}. "
            "Make room, then give the same command again: it goes on from there."
        )
