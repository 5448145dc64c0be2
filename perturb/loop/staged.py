"""The data of a training, stage after stage: this process's part of each global batch, and what was seen in all."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from accelerate import Accelerator
from accelerate.utils import gather_object

from perturb.loop.schedule import locate, shares
from perturb.loop.task import Batches, Task


class StagedBatches:
    """``task.batches`` of the stage that a step lies in, asked for this process's places; all processes have one."""

    def __init__(self, task: Task, accelerator: Accelerator) -> None:
        self.task, self.accelerator = task, accelerator
        self.stage = -1
        self.batches: Batches | None = None
        self.streams: list[str] = []

    def shares(self, step: int) -> list[range]:
        """Places in the global batch of ``step`` of each micro-batch of this process."""
        return shares(
            locate(self.task.stages, step).stage.batch_size,
            rank=self.accelerator.process_index,
            processes=self.accelerator.num_processes,
            accumulation=self.task.loop.accumulation,
        )

    def load(self, step: int, number: int) -> Any:
        """What micro-batch ``number`` of ``step`` consists of; the loading of the one after it is begun."""
        place, parts = locate(self.task.stages, step), self.shares(step)
        batches = self._enter(place.number)
        loaded = batches.load(place.step, parts[number])
        if number + 1 < len(parts):
            batches.expect(place.step, parts[number + 1])
        elif place.step + 1 < place.stage.steps:
            batches.expect(place.step + 1, parts[0])
        return loaded

    def inputs(self, step: int, number: int, loaded: Any) -> Sequence[Any]:
        """The objective's arguments for micro-batch ``number`` of ``step``."""
        place = locate(self.task.stages, step)
        return self._enter(place.number).inputs(place.step, self.shares(step)[number], loaded)

    def finish(self) -> str:
        """Digest of everything that was seen: of the stage where there is one, else of the digests of the stages."""
        self._leave()
        if len(self.streams) == 1:
            return self.streams[0]
        return hashlib.sha256("".join(self.streams).encode()).hexdigest()

    def state(self) -> dict[str, Any]:
        """Which stage this is, and the digests of those before it: the same in every process."""
        return {"stage": self.stage, "streams": self.streams}

    def position(self) -> dict[str, Any]:
        """Where the data of this process is."""
        assert self.batches is not None
        return self.batches.state(self._gather)

    def restore(self, state: Mapping[str, Any], position: Mapping[str, Any]) -> None:
        """Go on from what `state` and `position` gave."""
        self.streams = list(state["streams"])
        self._enter(state["stage"]).restore(position)

    def _enter(self, number: int) -> Batches:
        if number != self.stage or self.batches is None:
            self._leave()
            self.stage, self.batches = number, self.task.batches(number)
        return self.batches

    def _leave(self) -> None:
        if self.batches is not None:
            self.streams.append(self.batches.digest(self.task.stages[self.stage].steps, self._gather))
            self.batches = None

    def _gather(self, items: list[Any]) -> list[Any]:
        """The items of all processes, in the order of the processes."""
        return items if self.accelerator.num_processes == 1 else gather_object(items)
