"""What is computed on."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from perturb.cli.identity import identity
from perturb.device import pick_device, use_threads
from perturb.errors import UserError
from tests.unit.test_training_plan import composed


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
def test_threads_hold_here_and_in_processes_started_from_here():
    use_threads(3)
    assert (torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]) == (3, "3")
    use_threads(None)
    assert torch.get_num_threads() == 3
    with pytest.raises(UserError, match="threads"):
        use_threads(0)


def test_small_networks_compute_with_two_threads_and_runs_are_the_same_with_more(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert composed("system=nano_full", config_name="config")["threads"] == 1
    monkeypatch.delenv("OMP_NUM_THREADS")
    nano, large = (composed(f"system={name}", config_name="config") for name in ("nano_full", "videocrafter2"))
    assert (nano["threads"], large["threads"]) == (2, None)
    assert composed("system=nano_partial", config_name="generate")["threads"] == 2
    assert composed("experiment=train/nano_full")["threads"] == 2
    assert identity(nano) == identity({**nano, "threads": 1})


@pytest.mark.parametrize(("given", "policy"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")])
def test_threads_wait_passively_unless_the_user_says_otherwise(given: dict[str, str], policy: str):
    program = "import perturb, os, sys; print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"} | given
    out = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=Path(__file__).parents[2], capture_output=True, check=True
    )
    assert out.stdout.decode().split() == [policy, "False"]


def test_a_device_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert (pick_device("auto"), pick_device("cpu")) == ("cpu", "cpu")
    with pytest.raises(UserError, match="device=cuda:1, but torch sees no GPU; allowed here: cpu, auto"):
        pick_device("cuda:1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert (pick_device("auto"), pick_device("cuda:1")) == ("cuda", "cuda:1")
