"""Noise schedule, DDIM tables and q_sample against the published ones."""

import pytest
import torch

from perturb.diffusion.prediction import clean_and_noise
from perturb.models.videocrafter.keymap.diffusion import diffusion_buffers
from tests.parity.fixtures import Fixture, fixtures, requires_fixtures
from tests.parity.models import Ledger, schedule, schedule_spec

pytestmark = requires_fixtures
RTOL = 1e-6  # the fixture's own tolerance: "rtol 1e-6 expected"


@pytest.mark.parametrize("golden", fixtures("schedule"), ids=str)
def test_schedule(golden: Fixture):
    assert "1e-6" in golden.meta["tolerance"]["note"]
    ledger = Ledger(golden)
    for item in golden.meta["schedules"]:
        check_buffers(ledger, item)
        check_ddim_tables(ledger, item)
        check_samples(ledger, item)
    ledger.close()


def check_buffers(ledger: Ledger, item: dict):
    for name, table in diffusion_buffers(schedule_spec(item["diffusion"])).items():
        output = f"{item['name']}.{name}"
        if output in ledger.golden.outputs():
            assert ledger.golden.expected(output).dtype == table.dtype
            ledger.relative(output, table, RTOL)
    scale = f"{item['name']}.scale_arr"
    if scale in ledger.golden.outputs():
        ours = schedule(item["diffusion"]).latent_scale_table
        torch.testing.assert_close(ours, ledger.golden.expected(scale)[: len(ours)], rtol=RTOL, atol=0)


def check_ddim_tables(ledger: Ledger, item: dict):
    for steps in ledger.golden.meta["S"]:
        stem = f"{item['name']}.S{steps}"
        for eta in ledger.golden.meta["eta"]:
            table = schedule(item["diffusion"]).ddim_table(steps, eta)
            ledger.relative(f"{stem}.eta{eta:g}.sigmas", table.sigmas, RTOL)
        assert torch.equal(table.timesteps, ledger.golden.expected(f"{stem}.timesteps"))
        ledger.seen.add(f"{stem}.timesteps")
        ledger.relative(f"{stem}.alphas", table.alphas, RTOL)
        ledger.relative(f"{stem}.alphas_prev", table.alphas_prev, RTOL)
        ledger.relative(f"{stem}.sqrt_one_minus_alphas", (1 - table.alphas).sqrt(), RTOL)
        if f"{stem}.scale_arr" in ledger.golden.outputs():
            ledger.relative(f"{stem}.scale_arr", table.scale, RTOL)
            ledger.relative(f"{stem}.scale_arr_prev", table.scale_prev, RTOL)


def check_samples(ledger: Ledger, item: dict):
    x, t, noise = (ledger.golden.given(f"q.{name}") for name in ("x_start", "t", "noise"))
    ledger.relative(f"{item['name']}.q_sample", schedule(item["diffusion"]).q_sample(x, t, noise), RTOL)
    name = f"{item['name']}.predict_start_from_noise"
    if name in ledger.golden.outputs():
        # The published helper leaves the latent scale out, whatever the model.
        a = schedule(item["diffusion"], scaled=False).alphas_cumprod[t].reshape(-1, 1, 1, 1, 1)
        ledger.relative(name, clean_and_noise(noise, x, a, 1.0, "epsilon")[0], RTOL)
