"""The run directory: atomic writes, markers, manifest, lock."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from perturb.errors import UserError
from perturb.store.rundir import RunDir, replacing, run_id, write_atomic


def test_run_id_is_a_stable_content_hash():
    # printf '{"a":1,"b":[2,0.5]}' | sha256sum
    assert run_id({"b": [2, 0.5], "a": 1}) == "6ff307fc41"
    assert run_id({"a": 1}) != run_id({"a": 2})
    assert len(run_id({})) == 10


def test_paths_follow_the_layout(tmp_path: Path):
    run = RunDir(tmp_path)
    assert run.adapter("step_000100") == tmp_path / "adapters/step_000100"
    assert run.clip("part_down-key", "p003", 1) == tmp_path / "clips/part_down-key/p003_s1.npy"
    assert not any(tmp_path.iterdir())
    assert run.states() == []
    assert RunDir(tmp_path / "nowhere").states() == []


def test_write_atomic_leaves_the_old_file_when_writing_fails(tmp_path: Path):
    path = tmp_path / "file"
    write_atomic(path, "old")
    with pytest.raises(TypeError):
        write_atomic(path, 3)  # type: ignore[arg-type]
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_replacing_is_all_or_nothing(tmp_path: Path):
    path = tmp_path / "clip.mp4"
    with pytest.raises(ZeroDivisionError), replacing(path) as temporary:
        temporary.write_text(f"half {1 / 0}")
    assert not any(tmp_path.iterdir())
    with replacing(path) as temporary:
        assert temporary.suffix == ".mp4"
        temporary.write_text("whole")
    assert [p.name for p in tmp_path.iterdir()] == ["clip.mp4"]


def test_manifest_sections_merge_and_survive(tmp_path: Path):
    run = RunDir(tmp_path)
    run.update_manifest(run_id="abc", stages={"fit": "done"})
    run.update_manifest(stages={"sample": "started"}, metrics=[{"name": "dynamics"}])
    manifest = RunDir(tmp_path).manifest()
    assert manifest.run_id == "abc"
    assert manifest.stages == {"fit": "done", "sample": "started"}
    assert manifest.metrics == [{"name": "dynamics"}]
    with pytest.raises(AttributeError):
        run.update_manifest(surprise=1)


def test_done_markers(tmp_path: Path):
    run = RunDir(tmp_path)
    assert not run.is_done("sample", 20)
    run.mark_done("sample", 20)
    assert RunDir(tmp_path).is_done("sample", 20)
    assert not run.is_done("score", 20)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match=r"file/run cannot be written: .* [GM]B free.*or give another one"),
        RunDir(tmp_path / "file/run").lock(),
    ):
        pass


def test_a_process_that_does_not_write_leaves_the_run_to_the_one_that_does(tmp_path: Path):
    main, helper = RunDir(tmp_path), RunDir(tmp_path, writes=False)
    with main.lock(), helper.lock(), helper.stage("fit"):
        helper.mark_done("fit", "all")
        assert not main.is_done("fit", "all")
        assert main.manifest().stages == {}
        main.mark_done("fit", "all")
    assert helper.is_done("fit", "all")


def test_a_second_process_is_told_who_holds_the_lock_and_may_skip_the_run_or_wait(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("perturb.store.rundir.POLL", 0.02)
    script = (
        "import sys, pathlib; from perturb.store.rundir import RunDir\n"
        "with RunDir(pathlib.Path(sys.argv[1])).lock():\n    print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline().strip() == "held"
        with pytest.raises(UserError, match=f"in use by pid {other.pid} on "), RunDir(tmp_path).lock():
            pass
        with RunDir(tmp_path).lock("skip") as held:
            assert not held
        assert f"is in use by pid {other.pid} on " in capsys.readouterr().err
        (tmp_path / ".tmp-half").touch()
        threading.Timer(0.2, other.kill).start()
        with RunDir(tmp_path).lock("wait") as held:  # a killed holder does not hold on, and its half-written files go
            assert held
            assert not list(tmp_path.glob(".tmp-*"))
    assert capsys.readouterr().err.endswith(": waiting\n")
