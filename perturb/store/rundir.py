"""One run on disk: where everything lies, atomic writes, done-markers, the lock. Knows neither torch nor hydra.

runs/<experiment>/<run id>/
  config.yaml  manifest.json  states.csv  train.csv  scores.csv
  adapters/<state>/                peft format; after 100 fitting steps the state is step_000100
  clips/<state>/p003_s1.npy        uint8 t h w c, what is scored; .mp4 beside it is for eyes
  figures/
  .done/<stage>/<key>              empty files: this part is finished and valid
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from filelock import BaseFileLock, FileLock, Timeout

from perturb.disks import writing
from perturb.errors import UserError
from perturb.store.records import Manifest, read_scores, read_train
from perturb.store.states import State, read_states, states_csv, step_state

TEMPORARY = ".tmp-"
Locked = Literal["refuse", "wait", "skip"]
"""What to do about a run that another process holds."""
POLL = 1.0
"""Seconds between two looks at a lock that is waited for: runs take minutes, and many machines may share the disk."""


def run_id(identity: Mapping[str, Any]) -> str:
    """Ten hex digits of sha256 over the canonical JSON of everything that affects a run's results.

    >>> run_id({"a": 1, "b": [2, 3]}) == run_id({"b": [2, 3], "a": 1})
    True
    """
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:10]


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write a file so that any reader, and any crash, sees the old content or the new, never a part.

    Raises DiskError where the disk is full or does not allow it.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=TEMPORARY, dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content.encode() if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).chmod(0o644)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """`write_atomic` for writers that want a file name: yields a temporary path that becomes ``path`` on success."""
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{path.name}")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@dataclass(frozen=True)
class RunDir:
    """The directory of one run. Paths are made from it, nothing is created until something is written.

    ``writes`` is False in the processes that only help to fit: manifest, markers and lock are then left to another.
    """

    path: Path
    writes: bool = True

    @property
    def config(self) -> Path:
        """The resolved configuration that made the run."""
        return self.path / "config.yaml"

    @property
    def scores(self) -> Path:
        """scores.csv: one `ScoreRow` per line."""
        return self.path / "scores.csv"

    @property
    def train_log(self) -> Path:
        """train.csv: one `TrainRow` per line."""
        return self.path / "train.csv"

    @property
    def figures(self) -> Path:
        """The folder of figures."""
        return self.path / "figures"

    def adapter(self, state: str) -> Path:
        """The folder of the perturbation in a state."""
        return self.path / "adapters" / state

    def clips(self, state: str) -> Path:
        """The folder of the clips sampled with the `adapter` of a state."""
        return self.path / "clips" / state

    def clip(self, state: str, prompt_id: str, seed: int) -> Path:
        """The lossless frames of one clip, .npy, uint8 t h w c."""
        return self.clips(state) / f"{prompt_id}_s{seed}.npy"

    # states -----------------------------------------------------------------------------------------------------

    @property
    def states_path(self) -> Path:
        """states.csv: one `State` per line, the unperturbed model first."""
        return self.path / "states.csv"

    def states(self) -> list[State]:
        """The states of the run; none as long as they are not all made."""
        if self.states_path.is_file():
            return read_states(self.states_path)
        return self._old_states() if self.manifest().schema_version == 1 else []

    def write_states(self, states: Sequence[State]) -> None:
        """Say which states the run has; their adapters are on disk."""
        write_atomic(self.states_path, states_csv(states))

    def _old_states(self) -> list[State]:
        """Of schema 1: what adapters/ and scores.csv have; ids are folders as they lie there.

        Its landscapes and ablations numbered their states like steps, in the order of the manifest's ``cells``.
        """
        names = {folder.name for folder in (self.path / "adapters").glob("step_*")}
        names |= {row.state for row in read_scores(self.scores)} if self.scores.is_file() else set()
        train = read_train(self.train_log) if self.train_log.is_file() else []
        sizes = {row.step: row.magnitude for row in train}
        cells = self.manifest().perturbation.get("cells")
        numbers = sorted(int(name.removeprefix("step_")) for name in names)
        found = {number: step_state(number, sizes.get(number)) for number in numbers}
        return [dataclasses.replace(s, coordinates=cells[k]) if cells else s for k, s in found.items()]

    # manifest ---------------------------------------------------------------------------------------------------

    @property
    def manifest_path(self) -> Path:
        """manifest.json."""
        return self.path / "manifest.json"

    def manifest(self) -> Manifest:
        """The manifest as written; an empty one when there is none yet."""
        if not self.manifest_path.is_file():
            return Manifest()
        return Manifest.from_json(self.manifest_path.read_text(encoding="utf-8"), str(self.manifest_path))

    def update_manifest(self, **sections: Any) -> None:
        """Replace the named sections of the manifest; mappings are merged into what is there. Atomic."""
        if not self.writes:
            return
        manifest = self.manifest()
        for name, value in sections.items():
            old = getattr(manifest, name)  # an unknown section is a programming error: AttributeError
            merged = {**old, **value} if isinstance(old, dict) else value
            manifest = dataclasses.replace(manifest, **{name: merged})
        write_atomic(self.manifest_path, manifest.to_json())

    # done-markers -----------------------------------------------------------------------------------------------

    def _marker(self, stage: str, key: str | int) -> Path:
        return self.path / ".done" / stage / str(key)

    def mark_done(self, stage: str, key: str | int) -> None:
        """Say that part ``key`` of a stage is on disk, whole. Call it only after the last write of that part."""
        if self.writes:
            write_atomic(self._marker(stage, key), "")

    def is_done(self, stage: str, key: str | int) -> bool:
        """Whether `mark_done` was called for this part, in this process or an earlier one."""
        return self._marker(stage, key).is_file()

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Keep the status of a stage in the manifest: "started" on entering, "done" on leaving without an error."""
        self.update_manifest(stages={name: "started"})
        yield
        self.update_manifest(stages={name: "done"})

    # lock -------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def lock(self, locked: Locked = "refuse") -> Iterator[bool]:
        """Hold the run directory for this process; the operating system lets go of it however the process ends.

        Yields whether it is held: False where it is another's and ``locked`` is "skip". Raises UserError naming host
        and pid when another process holds it and ``locked`` is "refuse", and when the lock cannot be made.
        """
        if not self.writes:
            yield True
            return
        holder = self.path / ".lock.holder"
        lock = FileLock(self.path / ".lock", timeout=0)
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            held = self._acquire(lock, locked, holder)
        if not held:
            yield False
            return
        try:
            for leftover in self.path.rglob(f"{TEMPORARY}*"):  # of a process that was killed while writing
                leftover.unlink(missing_ok=True)
            write_atomic(holder, f"pid {os.getpid()} on {socket.gethostname()}")
            yield True
        finally:
            holder.unlink(missing_ok=True)
            lock.release()

    def _acquire(self, lock: BaseFileLock, locked: Locked, holder: Path) -> bool:
        """Take the lock, after waiting for it where that is wanted."""
        try:
            lock.acquire()
        except Timeout:
            who = holder.read_text(encoding="utf-8") if holder.is_file() else "another process"
            found = f"{self.path} is in use by {who}"
            if locked == "refuse":
                raise UserError(
                    f"The run directory {found}. Wait for it (locked=wait), leave it out (locked=skip), or end it and "
                    "run the command again."
                ) from None
            print(f"{found}: {'waiting' if locked == 'wait' else 'skipped'}", file=sys.stderr)
            if locked == "skip":
                return False
            lock.acquire(timeout=-1, poll_interval=POLL)
        return True
