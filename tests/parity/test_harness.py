"""The harness reads what a fixture says, or names what it does not know; it needs no golden fixtures."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.parity.fixtures import Fixture, Golden
from tests.parity.models import Ledger, schedule, schedule_spec


@pytest.fixture
def golden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fixture:
    """Three calls whose names hold dots and begin alike."""
    calls = [{"name": "cfg7"}, {"name": "cfg7.5"}, {"name": "cfg7.5.eta0"}]
    meta = {"kind": "ddim", "calls": calls, "tolerance": {"per_output": {}}}
    (tmp_path / "dots.json").write_text(json.dumps(meta))
    outputs = [f"{call['name']}.{output}" for call in calls for output in ("final", "inter.0.1")]
    save_file({f"out.{name}": torch.zeros(1) for name in outputs}, tmp_path / "dots.safetensors")
    monkeypatch.setenv("PERTURB_OWN_PARITY", str(tmp_path))
    return Golden("PERTURB_OWN_PARITY", "none").fixture("dots")


def test_an_output_belongs_to_the_longest_call_that_fits(golden: Fixture):
    assert golden.call_of("cfg7.final") == golden.call_of("cfg7.inter.0.1") == "cfg7"
    assert golden.call_of("cfg7.5.final") == "cfg7.5"
    assert golden.call_of("cfg7.5.eta0.inter.0.1") == "cfg7.5.eta0"
    assert golden.call_of("other") == ""


def test_a_call_is_closed_without_those_whose_names_go_on(golden: Fixture):
    ledger = Ledger(golden)
    ledger.seen |= {"cfg7.final", "cfg7.inter.0.1"}
    ledger.close("cfg7.")
    with pytest.raises(AssertionError, match=r"cfg7\.5\.final"):
        ledger.close("cfg7.5.")
    with pytest.raises(AssertionError, match=r"cfg7\.5\.eta0\.final"):
        ledger.close()


def test_the_schedule_is_that_of_the_fixture():
    given = {"timesteps": 500, "linear_start": 0.0001, "linear_end": 0.02, "use_scale": True, "scale_b": 0.5}
    spec, ours = schedule_spec(given), schedule(given)
    assert (spec.scale_table_length, schedule_spec(given | {"fix_scale_bug": True}).scale_table_length) == (900, 500)
    assert (ours.betas[0].item(), ours.betas[-1].item()) == (pytest.approx(0.0001), pytest.approx(0.02))
    # √β is linear from .01 to √.02
    assert ours.betas[249].item() == pytest.approx((0.01 + (0.02**0.5 - 0.01) * 249 / 499) ** 2)
    assert len(ours.betas) == 500
    assert ours.latent_scale_table[-1].item() == 0.5
    assert schedule(given, scaled=False).latent_scale_table.eq(1).all()


def test_without_settings_it_is_the_published_one():
    assert schedule({}).betas[[0, -1]].tolist() == [pytest.approx(0.00085), pytest.approx(0.012)]
    assert schedule_spec({}).scale_table_length is None
    assert schedule_spec({"use_scale": True, "mid_step": 400}).latent_scale == 0.3


@pytest.mark.parametrize(
    "setting",
    [
        {"mid_step": 300},
        {"scale_a": 2},
        {"beta_schedule": "cosine"},
        {"parameterization": "v"},
        {"rescale_betas_zero_snr": True},
        {"offset_noise": 0.1},
    ],
)
def test_a_setting_that_is_not_supported_is_named(setting: dict[str, object]):
    (name, value), *_ = setting.items()
    with pytest.raises(AssertionError, match=f"{name} = {value}: not supported"):
        schedule_spec(setting)
