"""What all metrics with a frozen network share. Axes: n rows of one clip (frames or pairs of frames), d features.

Rows of several clips go through the network together, always in chunks of the same size (the last filled with zeros):
a number then does not depend on which clips were scored together, to the last bit where the network treats its rows
alike, as those used here do.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from perturb.device import pick_device
from perturb.errors import UserError
from perturb.metrics.base import Clip, MetricInfo, Value
from perturb.metrics.learned.weights import Weights, content_hash, shown
from perturb.structured import check_range

if TYPE_CHECKING:
    from torch import Tensor

Network = TypeVar("Network")


class Learned(ABC, Generic[Network]):
    """Weights that are found at first use, loaded once, and kept in evaluation mode on one device.

    device: "auto" is a GPU where there is one. weights: a folder that is searched first. chunk: rows per forward.
    ``packages``: those whose version decides the numbers too.
    """

    batched, paired = True, False
    packages: tuple[str, ...] = ()
    version: int = 1
    infos: tuple[MetricInfo, ...]
    weights: tuple[Weights, ...]

    def __init__(self, *, device: str = "auto", weights: str | None = None, chunk: int = 16) -> None:
        check_range("metrics.chunk", chunk, low=1)
        self.device, self.folder, self.chunk = device, weights, chunk
        self._loaded: tuple[list[Path], Network] | None = None

    @abstractmethod
    def load(self, paths: Sequence[Path], device: str) -> Network:
        """The network from the places of its ``weights``. Anything may be raised for files that do not fit."""

    def identity(self) -> Mapping[str, Any]:
        """The version, the hash of every weight file, versions of packages. Unavailable without the files."""
        hashes = {one.name: content_hash(one.content(one.find(self.folder))) for one in self.weights}
        return {"version": self.version, "weights": hashes} | {name: version(name) for name in self.packages}

    def network(self) -> Network:
        """The loaded network. Unavailable without weights, UserError for files that are not what they should be."""
        paths = [one.find(self.folder) for one in self.weights]
        if self._loaded is None or self._loaded[0] != paths:
            try:
                with _isolated():
                    self._loaded = paths, self.load(paths, pick_device(self.device))
            except Exception as error:
                if (problem := told(error, self.weights[0].name)) is not error:
                    raise problem from error
                sources = ", ".join(f"{one.name} from {one.url}" for one in self.weights)
                where = ", ".join(shown(path) for path in paths)
                raise UserError(f"{where} cannot be used ({one_line(error)}); get {sources}") from error
        return self._loaded[1]


@contextmanager
def _isolated() -> Iterator[None]:
    """Building a network draws initial weights, which are then replaced: the caller's random state stays as it was."""
    import torch
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        if bars:
            logging.enable_progress_bar()


def told(error: Exception, what: str) -> Exception:
    """The error; where memory ran out for ``what``, that and what to do. Lets go of what torch holds unused."""
    import torch

    said = str(error)
    on_device = isinstance(error, torch.OutOfMemoryError) or "out of memory" in said
    if not (on_device or isinstance(error, MemoryError) or "can't allocate memory" in said):  # torch's own, on the CPU
        return error
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    place, more = ("the device", ", or set metrics.device=cpu") if on_device else ("memory", "")
    return UserError(f"{what} did not fit into {place}: end other programs, score smaller clips{more}")


def one_line(error: Exception) -> str:
    """An exception in one short line: torch lists every key of a state dict that does not fit."""
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else f"{text[:300]} …"


def pixels(clip: Clip, device: str) -> Tensor:
    """The frames as `n c h w`, still uint8: every network's own preprocessing begins with 0 to 255."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(clip.frames)).to(device).permute(0, 3, 1, 2)


def through(
    network: Callable[[Tensor], Tensor], clips: Sequence[Clip], rows: Callable[[Clip], Tensor], *, chunk: int
) -> list[np.ndarray | Value]:
    """network(rows(clip)) for each clip as float64 `n d`, in chunks of rows that have the same shape, without TF32.

    A clip whose rows cannot be made, or whose shape the network refuses, has the reason in its place. So have those of
    a chunk for which memory runs out.
    """
    import torch

    waiting: dict[Any, list[tuple[int, Tensor]]] = defaultdict(list)
    outputs: list[list[np.ndarray]] = [[] for _ in clips]
    failures: dict[int, Value] = {}

    def flush(full: list[tuple[int, Tensor]]) -> None:
        batch = torch.stack([row for _, row in full])
        filler = batch.new_zeros(chunk - len(full), *batch.shape[1:])
        places = [place for place, _ in full]
        try:
            with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
                found = network(torch.cat([batch, filler]))[: len(full)].double().cpu().numpy()
        except Exception as error:
            size = "×".join(map(str, batch.shape[1:]))
            failures.update(dict.fromkeys(places, Value.because(told(error, f"{chunk} rows of {size}"))))
        else:
            for place, output in zip(places, found, strict=True):
                outputs[place].append(output)

    for place, clip in enumerate(clips):
        try:
            made = rows(clip)
        except Exception as error:
            failures[place] = Value.because(told(error, "the clip"))
            continue
        for row in made:
            waiting[row.shape].append((place, row))
            if len(waiting[row.shape]) == chunk:
                flush(waiting.pop(row.shape))
    for full in waiting.values():
        flush(full)
    return [failures.get(place, np.array(output)) for place, output in enumerate(outputs)]


def values(
    measures: Mapping[str, Callable[[Clip, Any], float]], clips: Sequence[Clip], kept: Sequence[Any | Value]
) -> dict[str, list[Value]]:
    """Every measure of what was kept of each clip; each says by itself why it cannot be had."""
    both = list(zip(clips, kept, strict=True))
    return {
        name: [one if isinstance(one, Value) else _value(measure, clip, one) for clip, one in both]
        for name, measure in measures.items()
    }


def _value(measure: Callable[[Clip, Any], float], clip: Clip, kept: Any) -> Value:
    try:
        return Value.of(measure(clip, kept))
    except Exception as error:
        return Value.because(error)
