"""Clips of the untouched model are sampled once for all runs of a folder, and again whenever they are not there."""

import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from perturb.data.prompts import Prompt
from perturb.perturbation import Perturbation
from perturb.store.rundir import RunDir
from perturb.store.states import step_state
from perturb.study.sample import ClipFormat, Generator, sample
from perturb.study.shared import SharedClips

STATES = [step_state(0, 0.0), step_state(5, 0.1)]


class Counting:
    """Stands in for a Generator: its clips show how often it was called before."""

    format = ClipFormat(height=4, width=4, frames=2, fps=8)
    prompts = (Prompt("p000", "a star"), Prompt("p001", "a circle"))
    batches = ([(0, 0), (1, 0)], [(0, 1), (1, 1)])

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, batch: Sequence[tuple[int, int]], advance: Callable[[float], None]) -> np.ndarray:
        self.calls += 1
        return np.full((len(batch), 2, 4, 4, 3), self.calls, np.uint8)


class Nothing:
    """Stands in for a perturbation."""

    def load(self, folder: Path) -> None:
        pass

    def merged(self) -> AbstractContextManager[None]:
        return nullcontext()


@pytest.fixture
def generate() -> Counting:
    return Counting()


def sampled(folder: Path, generate: Counting, run: str, **origin: Any) -> list[int]:
    """The first pixel of every clip: of the untouched state, then of the other one."""
    shared, place = SharedClips(folder / "cache", origin), RunDir(folder / run)
    model, delta = cast(Generator, generate), cast(Perturbation, Nothing())
    sample(model, delta, STATES, place, playback_fps=8, shared=shared)
    jobs = [job for batch in generate.batches for job in batch]
    paths = [place.clip(state.id, generate.prompts[i].id, seed) for state in STATES for i, seed in jobs]
    assert all(path.with_suffix(".mp4").is_file() for path in paths)
    return [int(np.load(path)[0, 0, 0, 0]) for path in paths]


def test_a_second_run_takes_what_is_there_and_makes_the_rest(tmp_path: Path, generate: Counting):
    assert sampled(tmp_path, generate, "a") == [1, 1, 2, 2, 3, 3, 4, 4]
    assert sampled(tmp_path, generate, "b") == [1, 1, 2, 2, 5, 5, 6, 6]
    assert sampled(tmp_path, generate, "c", model="another") == [7, 7, 8, 8, 9, 9, 10, 10]


def test_the_folder_may_be_deleted_or_damaged(tmp_path: Path, generate: Counting):
    first = sampled(tmp_path, generate, "a")
    kept = next(path for path in (tmp_path / "cache").rglob("p001_s0.npy"))
    kept.unlink()
    kept.write_bytes(b"cut")
    assert sampled(tmp_path, generate, "b")[:4] == [5, 5, 2, 2]
    shutil.rmtree(tmp_path / "cache")
    assert sampled(tmp_path, generate, "c")[:4] == [8, 8, 9, 9]
    assert sampled(tmp_path, generate, "a") == first  # finished runs have clips of their own
    shutil.rmtree(tmp_path / "a")
    assert sampled(tmp_path, generate, "d")[:4] == [8, 8, 9, 9]


def test_runs_side_by_side_sample_it_once(tmp_path: Path, generate: Counting):
    with ThreadPoolExecutor() as pool:
        runs = list(pool.map(lambda run: sampled(tmp_path, generate, run), "abcd"))
    # of a batch that two had made, one would have another level
    assert len({tuple(levels[:4]) for levels in runs}) == 1


def test_disks_without_links_get_copies(tmp_path: Path, generate: Counting, monkeypatch: pytest.MonkeyPatch):
    def no_links(*_paths: Path) -> None:
        raise PermissionError

    monkeypatch.setattr("os.link", no_links)
    assert sampled(tmp_path, generate, "a")[:4] == sampled(tmp_path, generate, "b")[:4]


def test_where_nothing_can_be_written_runs_share_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert SharedClips.of(str(tmp_path), {}) is not None
    (tmp_path / "file").write_text("")
    assert SharedClips.of(str(tmp_path / "file"), {}) is None
    assert "warning: clips that runs share are not written" in capsys.readouterr().err
