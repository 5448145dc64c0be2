"""From sources to batches: which sample a step sees at which place, and what happens to broken files.

Everything random is a function of (seed, step, place) for random access, and of (seed, epoch) for streams.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch

from perturb.data.breakage import Breakage
from perturb.data.shard_stream import Place, Raw, ShardStream, this_process
from perturb.data.shards import Shards
from perturb.data.source import BrokenSample, Sample, Source
from perturb.diffusion import sample_generator
from perturb.diffusion.draws import Shuffled
from perturb.errors import UserError
from perturb.structured import check_range

ATTEMPTS = 32  # draws at one place before giving up

A = TypeVar("A")
B = TypeVar("B")


class Feed(Protocol):
    """The samples of a training, batch by batch."""

    def samples(self, step: int, places: Sequence[int]) -> list[Sample]:
        """The samples at ``places`` of the global batch of ``step``. Raises UserError when too much is broken."""
        ...

    def state(self) -> dict[str, Any]:
        """Where the feed is after the last samples, as plain numbers and texts; different in every process."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from the `state` that a feed made alike had in this process."""
        ...


@dataclass(frozen=True, kw_only=True)
class FeedConfig:
    """What a feed of one stage needs beside its data.

    ``batch_size``: of the global batch. ``threads``: how many files are decoded at a time; it changes no sample.
    """

    seed: int
    batch_size: int
    frames: int
    height: int
    width: int
    max_broken_fraction: float = 0.05
    threads: int = 1

    def __post_init__(self) -> None:
        for name in ("batch_size", "frames", "height", "width", "threads"):
            check_range(name, getattr(self, name), low=1)
        check_range("max_broken_fraction", self.max_broken_fraction, low=0, high=1)

    @property
    def size(self) -> dict[str, int]:
        """The size of a sample."""
        return {"frames": self.frames, "height": self.height, "width": self.width}


def open_feed(
    data: Source | Shards,
    config: FeedConfig,
    breakage: Breakage | None = None,
    *,
    rank: int | None = None,
    world: int | None = None,
) -> Feed:
    """The feed that suits ``data``: streamed for shards, by number for everything else.

    ``breakage`` counts on what an earlier feed of the same data counted; None: a count of its own. ``rank`` and
    ``world``: see `ShardFeed`; samples by number are the same in every process.
    """
    if isinstance(data, Shards):
        return ShardFeed(data, config, breakage, rank=rank, world=world)
    return IndexedFeed(data, config, breakage)


class IndexedFeed:
    """Samples of a source by number: a pure function of (seed, step, place), however places are divided.

    Epochs follow one another, each in an order drawn from (seed, epoch). A broken file is replaced by a sample drawn
    from (seed, step, place, attempt), and counted in ``breakage``.
    """

    def __init__(self, source: Source, config: FeedConfig, breakage: Breakage | None = None) -> None:
        if len(source) == 0:
            raise UserError("the data holds no samples")
        self.source, self.config = source, config
        self.breakage = breakage or Breakage(config.max_broken_fraction)
        self._decoders = Decoders(config.threads)
        self._order = Shuffled(len(source), config.seed)

    def samples(self, step: int, places: Sequence[int]) -> list[Sample]:
        """See `Feed.samples`."""
        wanted = [(step, place, self._index(step, place)) for place in places]
        return [self._account(*drawn) for drawn in self._decoders.map(self._draw, wanted)]

    def state(self) -> dict[str, Any]:
        """The position is the step itself; only what was broken has to be kept."""
        return {"broken": self.breakage.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """See `Feed.restore`."""
        self.breakage.restore(state["broken"])

    def _index(self, step: int, place: int) -> int:
        assert 0 <= place < self.config.batch_size
        return self._order[step * self.config.batch_size + place]

    def _draw(self, wanted: tuple[int, int, int]) -> tuple[Sample | None, list[BrokenSample]]:
        """The sample for a step and place, and the broken files in its way; touches nothing that threads share."""
        step, place, index = wanted
        failures: list[BrokenSample] = []
        for attempt in range(ATTEMPTS):
            generator = sample_generator("sample", self.config.seed, step, place, attempt)
            if attempt:
                index = int(torch.randint(len(self.source), (), generator=generator))
            try:
                return self.source.load(index, **self.config.size, generator=generator), failures
            except BrokenSample as error:
                failures.append(error)
        return None, failures

    def _account(self, sample: Sample | None, failures: list[BrokenSample]) -> Sample:
        for failure in failures:
            self.breakage.bad(failure)
        if sample is None:
            raise UserError(f"{ATTEMPTS} files drawn in turn were broken, the last one {failures[-1]}")
        self.breakage.good()
        return sample


class ShardFeed:
    """Samples of webdataset shards, read by one stream per process; see `ShardStream` for their order.

    Processes take different shards, so the batches depend on how many there are: torchrun's ranks, times the workers
    of a torch DataLoader when it runs inside one. ``rank`` and ``world`` say otherwise.
    """

    def __init__(
        self,
        data: Shards,
        config: FeedConfig,
        breakage: Breakage | None = None,
        *,
        rank: int | None = None,
        world: int | None = None,
    ) -> None:
        self.data, self.config = data, config
        self._place = (rank, world)
        self.breakage = breakage or Breakage(config.max_broken_fraction)
        self._decoders = Decoders(config.threads)
        self._lost = 0
        self._last_good = 0  # epoch
        self._stream: ShardStream | None = None

    @property
    def stream(self) -> ShardStream:
        """The stream of this process; made when first wanted, as only then it is known which process this is."""
        if self._stream is None:
            rank, world = this_process() if None in self._place else self._place
            self._stream = ShardStream(
                self.data.urls,
                seed=self.config.seed,
                shuffle=self.data.shuffle,
                rank=rank or 0,
                world=world or 1,
                on_broken=self._lose,
            )
        return self._stream

    def samples(self, step: int, places: Sequence[int]) -> list[Sample]:
        """The next ``len(places)`` samples of the stream, whatever the step; broken ones are passed over."""
        del step
        found: list[Sample] = []
        while len(found) < len(places):
            raws = [self.stream.take() for _ in range(len(places) - len(found))]
            for result in self._decoders.map(self._decode, raws):
                if isinstance(result, BrokenSample):
                    self.breakage.bad(result)
                    if self.stream.epoch > self._last_good + 1:
                        raise UserError(f"no sample of a whole epoch could be read, the last one: {result}")
                else:
                    self.breakage.good()
                    self._last_good = self.stream.epoch
                    found.append(result)
        return found

    def state(self) -> dict[str, Any]:
        """See `Feed.state`."""
        return {"stream": self.stream.state(), "broken": self.breakage.state(), "lost": self._lost}

    def restore(self, state: Mapping[str, Any]) -> None:
        """See `Feed.restore`. Raises UserError for the position of other shards, or of another number of processes."""
        self.stream.restore(state["stream"])
        self.breakage.restore(state["broken"])
        self._lost, self._last_good = state["lost"], self.stream.epoch

    def _decode(self, taken: tuple[int, Place, Raw]) -> Sample | BrokenSample:
        epoch, place, raw = taken
        generator = sample_generator("shard sample", self.config.seed, epoch, *place)
        name = f"{self.data.urls[place.shard]}/{raw['__key__']}"
        try:
            return self.data.decode(raw, name, **self.config.size, generator=generator)
        except BrokenSample as error:
            return error

    def _lose(self, error: BrokenSample) -> None:
        """A shard that ends too early takes many samples with it: it is counted against the shards of the epoch."""
        self.breakage.note(error)
        self._lost += 1
        if self._lost > self.config.max_broken_fraction * len(self.stream.order) * (self.stream.epoch + 1):
            raise UserError(
                f"{self._lost} shards could not be read to their end, more than max_broken_fraction="
                f"{self.config.max_broken_fraction:g} of them; the last one: {error}"
            )


class Decoders:
    """Calls in their order, ``threads`` at a time."""

    def __init__(self, threads: int) -> None:
        self.pool = ThreadPoolExecutor(threads, "decode") if threads > 1 else None

    def map(self, function: Callable[[A], B], arguments: Iterable[A]) -> Iterable[B]:
        """The results in the order of ``arguments``."""
        return map(function, arguments) if self.pool is None else self.pool.map(function, arguments)
