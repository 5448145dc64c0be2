"""What a log file sees of a long stage."""

import pytest

from perturb import progress


class Clock:
    """Seconds that pass when told to."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress.time, "monotonic", clock)
    return clock


def test_a_line_every_30_s_with_count_rate_and_time_left(clock: Clock, capsys: pytest.CaptureFixture[str]):
    with progress.progress("fit [x]", 300) as advance:
        advance(100)  # done by the run that is resumed: no part of the rate
        for _ in range(70):
            clock.now += 1
            advance(2)
    assert capsys.readouterr().err.splitlines() == [
        "fit [x]: 160/300, 2/s, 70 s left",
        "fit [x]: 220/300, 2/s, 40 s left",
        "fit [x]: done in 70.0 s",
    ]


def test_a_short_stage_and_one_that_does_not_move_print_no_rate(clock: Clock, capsys: pytest.CaptureFixture[str]):
    with progress.progress("score", 4) as advance:
        advance(1)
        clock.now += 29
        advance(1)
    with progress.progress("sample", 4) as advance:
        clock.now += 100
        advance(0)
        clock.now += 100
        advance(0)
    assert capsys.readouterr().err.splitlines() == ["score: done in 29.0 s", "sample: done in 200.0 s"]


def test_slow_steps_are_shown_one_by_one(clock: Clock, capsys: pytest.CaptureFixture[str]):
    with progress.progress("train", 100) as advance:
        for _ in range(3):
            clock.now += 120
            advance(1)
    assert capsys.readouterr().err.splitlines()[:2] == [
        "train: 2/100, 0.00833/s, 3.3 h left",
        "train: 3/100, 0.00833/s, 3.2 h left",
    ]
