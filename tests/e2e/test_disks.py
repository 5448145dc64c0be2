"""Disks that are full or read-only: what, where, how much is free; the same command goes on, and no result is lost."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from perturb.store.rundir import RunDir
from tests.e2e.conftest import Commands, Outcome
from tests.e2e.test_resume import results

FREE = r"\(\d+\.\d\d [GM]B free\)"


class Disk:
    """A file system of its own in memory, since permission bits do not bind the superuser."""

    def __init__(self, path: Path, kilobytes: int) -> None:
        self.path = path
        path.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "none", str(path)]
        try:
            outcome = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            pytest.skip(f"needs a file system of its own: {error}")
        if outcome.returncode:
            pytest.skip(f"needs a file system of its own: {outcome.stderr.strip()}")

    def mounted(self, option: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{option}", str(self.path)], check=True)

    def leave(self, kilobytes: int) -> None:
        """Fill it until this is free."""
        filling = self.path / "filling"
        filling.unlink(missing_ok=True)
        filling.write_bytes(bytes(shutil.disk_usage(self.path).free - kilobytes * 1024))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """40 MB."""
    disk = Disk(tmp_path / "disk", 40 * 1024)
    yield disk
    subprocess.run(["umount", str(disk.path)], check=True)


def ends_with_a_message(outcome: Outcome, disk: Disk, what: str) -> None:
    assert outcome.code == 2, outcome.log
    assert "Traceback" not in outcome.log
    (said,) = re.findall(r"^error.*", outcome.log, re.MULTILINE)
    assert re.search(what, said), said
    assert re.search(FREE, said), said
    assert str(disk.path) in said
    assert re.search(r"give the same command again: (what is finished is kept|it goes on from there)\.", said), said


FULL = r"the disk is full.*: .* could not be written"
READ_ONLY = "cannot be written: read-only file system"


def test_a_run_on_a_disk_that_is_full_again_and_again_ends_with_the_bytes_of_one_that_was_not(
    commands: Commands, study: list[str], disk: Disk, finished: RunDir
):
    arguments = [*study, f"runs_dir={disk.path / 'runs'}"]
    ends = []
    for kilobytes in (0, 40, 120, 300, 20_000):  # no room for config.yaml, the fit, the clips, the figures
        disk.leave(kilobytes)
        outcome = commands("perturb.run", *arguments)
        ends.append((outcome.code, [path.name for path in sorted((disk.path / "runs").rglob("*"))]))
        if outcome.code:
            ends_with_a_message(outcome, disk, FULL)
            assert not list(disk.path.rglob(".tmp-*"))
    assert [code for code, _ in ends][:2] == [2, 2]
    assert ends[-1][0] == 0, ends
    assert results(disk.path / "runs" / "spatial_full" / finished.path.name) == results(finished.path)


def test_a_run_in_a_read_only_folder_ends_before_work_starts(commands: Commands, study: list[str], disk: Disk):
    disk.mounted("ro")
    outcome = commands("perturb.run", *study, f"runs_dir={disk.path / 'runs'}")
    ends_with_a_message(outcome, disk, READ_ONLY)
    assert "fit" not in outcome.log


@pytest.fixture
def archive(disk: Disk, finished: RunDir) -> Path:
    """A copy of the finished runs, without their figures, on a disk that is read-only now."""
    shutil.copytree(finished.path.parents[1], disk.path / "runs")
    run = disk.path / "runs" / "spatial_full" / finished.path.name
    shutil.rmtree(run / "figures")
    (run / "report.html").unlink(missing_ok=True)
    disk.mounted("ro")
    return run


def test_a_finished_run_that_is_read_only_is_shown_without_its_figure(
    commands: Commands, study: list[str], archive: Path
):
    outcome = commands("perturb.run", *study, f"runs_dir={archive.parents[1]}")
    assert outcome.code == 0, outcome.log
    assert f"run     {archive}\n" in outcome.log
    assert re.search(rf"warning: the figure is not written: .*summary.* {READ_ONLY}", outcome.log)
    assert re.search(rf"warning: the report is not written: .*report.html {READ_ONLY}", outcome.log)
    assert "motion_quality" in outcome.log or "motion quality" in outcome.log


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("perturb.score", ["run={run}"]),
        ("perturb.report", ["{run}", "-o", "{disk}/report.html"]),
        ("perturb.report", ["{run}", "--format", "md", "-o", "{disk}/report.md"]),
        ("perturb.report", ["{run}", "--format", "tex", "-o", "{disk}/report.tex"]),
        ("perturb.analysis.summary", ["{run}"]),
    ],
)
def test_what_is_to_be_written_there_is_named(
    module: str, arguments: list[str], commands: Commands, archive: Path, disk: Disk
):
    given = [argument.format(run=archive, disk=disk.path) for argument in arguments]
    outcome = commands(module, *given)
    ends_with_a_message(outcome, disk, READ_ONLY)


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(3):
        np.save(folder / f"{number}.npy", random.integers(0, 256, (4, 24, 24, 3), dtype=np.uint8))
    return folder


@pytest.mark.parametrize("state", ["full", "read-only"])
def test_a_cache_without_room_costs_no_score(state: str, commands: Commands, videos: Path, disk: Disk, tmp_path: Path):
    disk.leave(0)
    if state == "read-only":
        disk.mounted("ro")
    arguments = [f"videos={videos}", "fps=8", "workers=1"]
    for name, cache in (("with", disk.path / "cache"), ("without", "null")):
        outcome = commands("perturb.score", *arguments, f"cache={cache}", f"output={tmp_path / name}")
        assert outcome.code == 0, outcome.log
        assert outcome.log.count("warning: kept scores are not written") == (name == "with")
    assert (tmp_path / "with/scores.csv").read_bytes() == (tmp_path / "without/scores.csv").read_bytes()


def test_scores_without_room_are_an_error_and_come_when_there_is_some(commands: Commands, videos: Path, disk: Disk):
    arguments = [f"videos={videos}", "fps=8", "workers=1", "cache=null", f"output={disk.path / 'scores'}"]
    disk.leave(0)
    ends_with_a_message(commands("perturb.score", *arguments), disk, FULL)
    disk.leave(1000)
    assert commands("perturb.score", *arguments).code == 0
    assert (disk.path / "scores/scores.csv").is_file()


def test_a_sample_without_room_is_an_error_and_comes_when_there_is_some(
    commands: Commands, checkpoint: Path, disk: Disk
):
    arguments = [
        *(f"system.checkpoint={checkpoint}", "prompt=a red circle", "sampler.steps=2"),
        *("sample.height=32", "sample.width=32", "sample.frames=4", f"output={disk.path / 'clips'}"),
    ]
    disk.leave(4)
    ends_with_a_message(commands("perturb.sample", *arguments), disk, FULL)
    disk.leave(16)  # the frames, 12 KB, and no mp4 or sheet
    outcome = commands("perturb.sample", *arguments)
    assert outcome.code == 0, outcome.log
    assert "warning: the mp4 beside clips are not written: the disk is full," in outcome.log
    assert np.load(disk.path / "clips/p000_s0.npy").shape == (4, 32, 32, 3)
    assert [path.name for path in (disk.path / "clips").iterdir()] == ["p000_s0.npy"]
    disk.leave(1000)
    assert commands("perturb.sample", *arguments).code == 0
    assert sorted(path.name for path in (disk.path / "clips").iterdir()) == ["p000_s0.mp4", "p000_s0.npy", "sheet.png"]
