"""The training loss and gradients against those of the published parts."""

from typing import Any

import pytest
from torch import Tensor

from perturb.diffusion import Conditioning, epsilon_loss
from tests.parity.fixtures import Fixture, fixtures, requires_fixtures
from tests.parity.models import Ledger, load_unet, schedule

pytestmark = requires_fixtures

CALLS = [(golden, call) for golden in fixtures("loss") for call in golden.calls]


@pytest.mark.parametrize(("golden", "call"), CALLS, ids=[f"{golden}-{call['name']}" for golden, call in CALLS])
def test_loss(golden: Fixture, call: dict[str, Any]):
    name, ledger = call["name"], Ledger(golden)
    unet, keys = load_unet(golden.meta["state_from"]["unet"])

    def denoise(x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        ledger.check(f"{name}.x_noisy", x)
        eps = unet(x, t, cond.text, cond.fps, image_context=cond.image)
        ledger.check(f"{name}.eps_pred", eps.detach())
        return eps

    x0, t, noise, text, fps = (golden.given(f"{name}.{key}") for key in ("x_start", "t", "noise", "context", "fps"))
    losses = epsilon_loss(denoise, schedule(call["diffusion"]), x0, t, noise, Conditioning(text, fps))
    ledger.check(f"{name}.loss_per_sample", losses.detach())
    ledger.check(f"{name}.loss", losses.mean().detach().reshape(1))
    losses.mean().backward()
    gradients = {key: parameter.grad for key, parameter in unet.named_parameters()}
    for key in golden.meta["grad_keys"]:
        gradient = gradients[keys[key]]
        assert gradient is not None, key
        expected = golden.expected(f"{name}.grad.{key}")
        ledger.check(f"{name}.grad.{key}", gradient.reshape(expected.shape))
    ledger.close(f"{name}.")
