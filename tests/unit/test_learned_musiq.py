"""VBench's imaging quality against pyiqa's MUSIQ on the same random weights, where pyiqa is installed."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from learned_files import frames, scene

from perturb.metrics import Clip, Context, Unavailable, score_clips
from perturb.metrics.learned.musiq import MUSIQ_FILE, Musiq, prepared

with_pyiqa = pytest.mark.skipif(not find_spec("pyiqa"), reason="needs pyiqa: pip install 'perturb[musiq]'")


def write_musiq(folder: Path) -> Path:
    from pyiqa.archs.musiq_arch import MUSIQ  # pyright: ignore[reportMissingImports]

    torch.manual_seed(0)
    torch.save(MUSIQ(pretrained=False).state_dict(), folder / MUSIQ_FILE)
    return folder / MUSIQ_FILE


def test_without_pyiqa_or_its_file_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metric = Musiq(weights=str(tmp_path))
    with pytest.raises(Unavailable, match=r"no such file.*github\.com/chaofengc.*pip install 'perturb\[musiq\]'"):
        metric.identity()
    (tmp_path / MUSIQ_FILE).write_bytes(b"")
    monkeypatch.setattr("perturb.metrics.learned.weights.find_spec", lambda _: None)
    (_, _, value), *_ = score_clips([metric], [scene(0)], Context())
    assert value.status == "unavailable"
    assert "package pyiqa is not installed" in value.reason


def test_only_large_frames_are_made_smaller() -> None:
    small = torch.randint(0, 256, (2, 3, 320, 512), dtype=torch.uint8)
    assert prepared(small) is small
    large = torch.full((1, 3, 300, 1024), 9, dtype=torch.uint8)
    assert torch.equal(prepared(large), torch.full((1, 3, 150, 512), 9, dtype=torch.uint8))


@with_pyiqa
def test_imaging_quality_is_the_mean_of_the_packages_ratings(tmp_path: Path) -> None:
    from pyiqa.archs.musiq_arch import MUSIQ  # pyright: ignore[reportMissingImports]

    path, clip = write_musiq(tmp_path), scene(0, size=(64, 80))
    (value,) = Musiq(device="cpu", weights=str(tmp_path), chunk=3)([clip], Context())["imaging_quality"]
    package = MUSIQ(pretrained=False, pretrained_model_path=str(path)).eval()
    with torch.no_grad():
        ratings = [package(frame[None] / 255).item() for frame in frames(clip)]
    assert np.ptp(ratings) > 1e-3
    assert value.value == pytest.approx(np.mean(ratings) / 100, rel=1e-4)


@with_pyiqa
def test_a_file_that_is_something_else_is_refused(tmp_path: Path) -> None:
    torch.save({"head.weight": torch.zeros(1)}, tmp_path / MUSIQ_FILE)
    clip = Clip(np.zeros((1, 40, 40, 3), np.uint8), 8.0, "p", 0, 0)
    (_, _, value), *_ = score_clips([Musiq(device="cpu", weights=str(tmp_path))], [clip], Context())
    assert value.status == "failed"
    assert "cannot be used (Error(s) in loading state_dict" in value.reason
