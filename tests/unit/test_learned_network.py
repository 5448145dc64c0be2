"""Rows through a network: what runs out of memory fails with what to do about it, and the rest go on."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from learned_files import scene, write_dino
from torch import Tensor

from perturb.errors import UserError
from perturb.metrics import Clip, Context, Value
from perturb.metrics.learned.dino import Dino, DinoEncoder
from perturb.metrics.learned.network import pixels, through, told

SMALL, LARGE = scene(0, frames=3, size=(8, 8)), scene(1, frames=3, size=(64, 64))


def allocate(_: object = None) -> Tensor:
    """Asks torch for more than any machine has: an exbibyte."""
    return torch.empty(2**60, dtype=torch.uint8)


def refuse(_: object = None) -> Tensor:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


def array(_: object = None) -> Tensor:
    """Asks numpy for as much."""
    return torch.from_numpy(np.empty(2**60, np.uint8))


@pytest.mark.parametrize(
    ("greedy", "place"), [(allocate, "into memory: "), (refuse, "into the device: "), (array, "into memory: ")]
)
def test_memory_that_runs_out_costs_only_the_clips_it_runs_out_for(
    greedy: Callable[[object], Tensor], place: str
) -> None:
    def network(rows: Tensor) -> Tensor:
        return greedy(rows) if rows.shape[-1] == 64 else rows.float().mean((2, 3))

    def rows(clip: Clip) -> Tensor:
        return greedy(clip) if clip.prompt_id == "huge" else pixels(clip, "cpu")

    huge = Clip(SMALL.frames, 8.0, "huge", 0, 0)
    large, first, whole, second = through(network, [LARGE, SMALL, huge, SMALL], rows, chunk=2)
    assert isinstance(large, Value)
    assert large.status == "failed"
    assert large.reason.startswith(f"2 rows of 3×64×64 did not fit {place}end other programs")
    assert ("metrics.device=cpu" in large.reason) == (greedy is refuse)
    assert isinstance(whole, Value)
    assert whole.reason.startswith(f"the clip did not fit {place}")
    assert isinstance(first, np.ndarray)
    assert isinstance(second, np.ndarray)
    assert np.array_equal(first, second)
    assert first == pytest.approx(SMALL.frames.mean((1, 2)), rel=1e-5)


def test_weights_that_do_not_fit_are_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_dino(tmp_path)
    metric = Dino(device="cpu", weights=str(tmp_path))
    monkeypatch.setattr(Dino, "load", refuse_to_load)
    with pytest.raises(UserError, match=r"^facebook/dino-vitb16 did not fit into the device: .*metrics\.device=cpu$"):
        metric([SMALL], Context())


def refuse_to_load(*_: object) -> DinoEncoder:
    raise torch.OutOfMemoryError("CUDA out of memory.")


def test_other_errors_stay_as_they_are() -> None:
    error = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    assert told(error, "the clip") is error
