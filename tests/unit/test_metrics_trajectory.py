"""Measured motion against the true one."""

import numpy as np
import pytest

from perturb.errors import UserError
from perturb.metrics.calibration.clips import clip, pan
from perturb.metrics.embedded.flow import optical_flow
from perturb.metrics.embedded.frames import luma
from perturb.metrics.embedded.trajectory import agreement


def test_by_hand() -> None:
    true = np.array([[2.0, 0.0], [0.0, 0.0]])
    got = agreement(np.array([[2.0, 2.0], [3.0, 4.0]]), true)
    assert got.end_point_error == pytest.approx((2 + 5) / 2)
    assert got.direction_error == pytest.approx(45)  # the second does not move, and has no direction
    assert got.count == 2
    assert agreement(-true, true).direction_error == pytest.approx(180)
    assert np.isnan(agreement(true, np.zeros((2, 2))).direction_error)
    with pytest.raises(UserError, match=r"one shape \(n, 2\)"):
        agreement(true, true[:1])


def test_the_flow_of_a_pan_goes_where_the_pan_goes() -> None:
    flow = optical_flow(luma(clip(pan((2, -3))).frames)).reshape(-1, 2)
    got = agreement(flow, np.broadcast_to([2.0, -3.0], flow.shape))
    assert got.end_point_error < 0.3
    assert got.direction_error < 5
