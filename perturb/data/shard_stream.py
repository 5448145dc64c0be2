"""The raw samples of webdataset shards, shuffled within bounds, in an order that can be taken up anywhere."""

import hashlib
import itertools
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from perturb.data.source import BrokenSample
from perturb.diffusion import sample_generator
from perturb.errors import UserError

Raw = Mapping[str, Any]
"""One sample as webdataset gives it: extension → bytes, and ``__key__``."""

UNREADABLE = (OSError, tarfile.TarError, ValueError, EOFError, zlib.error)


def read_shard(url: str) -> Iterator[Raw]:
    """The samples of one shard, streamed. Raises BrokenSample where it cannot be opened or ends too early."""
    from webdataset.tariterators import tarfile_samples

    try:
        yield from tarfile_samples(iter([{"url": url}]))
    except UNREADABLE as error:
        reason = error.args[0] if error.args else type(error).__name__
        raise BrokenSample(url, f"cannot be read as a shard: {reason}") from None


class Place(NamedTuple):
    """Where a sample lies: the number of its shard, and its number in it."""

    shard: int
    index: int


class ShardStream:
    """The raw samples of this process's share of ``urls``, epoch after epoch, in an order drawn from ``seed``.

    The shards of an epoch are permuted by (seed, epoch), and every ``world``-th is this process's; from ``shuffle``
    waiting samples one is drawn each time. Every sample comes once per epoch. A shard that cannot be read to its end is
    handed to ``on_broken``, and the next one begun. Raises UserError for fewer shards than processes.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        seed: int,
        shuffle: int,
        rank: int,
        world: int,
        on_broken: Callable[[BrokenSample], None],
    ) -> None:
        if len(urls) < world:
            raise UserError(
                f"{len(urls)} shards cannot be split among {world} processes: make at least {world}, or use fewer"
            )
        self.urls, self.seed, self.shuffle, self.rank, self.world = list(urls), seed, shuffle, rank, world
        self.on_broken = on_broken
        self._begin(0)

    def take(self) -> tuple[int, Place, Raw]:
        """Epoch, place and content of the next sample. Raises UserError when the shards hold no samples at all."""
        while not self._fill():
            if not self.taken:
                raise UserError(f"no samples in {len(self.order)} shards, e.g. {self.urls[self.order[0]]}")
            self._begin(self.epoch + 1)
        generator = sample_generator("shards", self.seed, self.epoch, "shuffle", self.taken)
        drawn = int(torch.randint(len(self.waiting), (), generator=generator))
        self.waiting[drawn], self.waiting[-1] = self.waiting[-1], self.waiting[drawn]
        self.taken += 1
        return self.epoch, *self.waiting.pop()

    def state(self) -> dict[str, Any]:
        """Where the stream is: few numbers, and the places of the waiting samples."""
        return {
            "epoch": self.epoch,
            "taken": self.taken,
            "position": self.position,
            "index": self.index,
            "waiting": [list(place) for place, _ in self.waiting],
            **self._identity(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``, reading again only the shards that samples were waiting from and the one that was open.

        Raises UserError when it belongs to other shards, another seed or another number of processes.
        """
        for name, value in self._identity().items():
            if state[name] != value:
                raise UserError(
                    f"the saved position was made with {name}={state[name]}, now it is {value}: the order of shards "
                    "depends on it; continue with the same, or start anew"
                )
        self._begin(state["epoch"])
        self.taken, self.position, self.index = state["taken"], state["position"], state["index"]
        places = [Place(*place) for place in state["waiting"]]
        content = self._fetch(places)
        self.waiting = [(place, content[place]) for place in places]
        self._reader = self._read()

    def _begin(self, epoch: int) -> None:
        self.epoch, self.taken, self.position, self.index = epoch, 0, 0, 0
        order = torch.randperm(len(self.urls), generator=sample_generator("shards", self.seed, epoch))
        self.order: list[int] = order[self.rank :: self.world].tolist()
        self.waiting: list[tuple[Place, Raw]] = []
        self._reader = self._read()

    def _fill(self) -> bool:
        """Read until enough samples wait or the epoch is read; whether there are any."""
        while len(self.waiting) < self.shuffle and (item := next(self._reader, None)) is not None:
            self.waiting.append(item)
        return bool(self.waiting)

    def _read(self) -> Iterator[tuple[Place, Raw]]:
        """All samples from ``index`` of the ``position``-th shard of this epoch on; both are moved along."""
        while self.position < len(self.order):
            shard, begin = self.order[self.position], self.index
            try:
                for index, raw in enumerate(read_shard(self.urls[shard])):
                    if index >= begin:
                        self.index = index + 1
                        yield Place(shard, index), raw
            except BrokenSample as error:
                self.on_broken(error)
            self.position, self.index = self.position + 1, 0

    def _fetch(self, places: Sequence[Place]) -> dict[Place, Raw]:
        found: dict[Place, Raw] = {}
        for shard in sorted({place.shard for place in places}):
            wanted = {place.index for place in places if place.shard == shard}
            try:
                for index, raw in itertools.islice(enumerate(read_shard(self.urls[shard])), max(wanted) + 1):
                    if index in wanted:
                        found[Place(shard, index)] = raw
            except BrokenSample as error:
                raise UserError(f"cannot go on where the training stopped: {error}") from None
        if missing := [place for place in places if place not in found]:
            raise UserError(f"{self.urls[missing[0].shard]} has changed: its sample {missing[0].index} is gone")
        return found

    def _identity(self) -> dict[str, Any]:
        return {
            "shards": digest_of_names(self.urls),
            "seed": self.seed,
            "shuffle": self.shuffle,
            "processes": self.world,
            "process": self.rank,
        }


def digest_of_names(urls: Sequence[str]) -> str:
    """Of the shards' own names: the same data at another place is the same data."""
    return hashlib.sha256("\n".join(url.rpartition("/")[2] for url in urls).encode()).hexdigest()


def this_process() -> tuple[int, int]:
    """The number of this reader and how many there are: torchrun's ranks times the workers of a DataLoader."""
    from webdataset.utils import pytorch_worker_info

    rank, world, worker, workers = pytorch_worker_info()
    return rank * workers + worker, world * workers
