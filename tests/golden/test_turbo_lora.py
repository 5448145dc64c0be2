"""T2V-Turbo's nameless list of LoRA factors: which layer each pair is of, and what it adds."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from perturb.diffusion import Conditioning
from perturb.errors import UserError
from perturb.models.names import OFFICIAL, layer_names, listed_factors, vocabularies
from perturb.models.videocrafter.published import SPECS
from perturb.models.videocrafter.turbo import merged_list
from perturb.nn import VideoUNet
from perturb.perturbation import LoraPerturbation
from tests.golden.golden_fixtures import fixtures, requires_fixtures
from tests.golden.golden_networks import load, run
from tests.parity.fixtures import Fixture
from tests.parity.models import Ledger

pytestmark = requires_fixtures


def given(golden: Fixture) -> tuple[VideoUNet, list[Tensor]]:
    """The network without the motion matrices, and the list as it lies in the file."""
    unet = load(golden.meta["state_from"]["unet"], motion_cond=False)
    return unet, [golden.given(f"lora.{i:04d}").float() for i in range(golden.meta["n_lora_tensors"])]


def kind(layer: nn.Module) -> str:
    """As torch calls it."""
    return next(each.__name__ for each in (nn.Linear, nn.Conv2d, nn.Conv3d) if isinstance(layer, each))


@pytest.mark.parametrize("golden", fixtures("manifest_lora"), ids=str)
def test_every_pair_of_the_published_list_has_its_layer(golden: Fixture):
    """All 575, with class and shapes."""
    with torch.device("meta"):
        unet = SPECS["t2v_turbo_v1"].build_unet()
        tensors = [torch.empty(shape) for row in golden.meta["entries"] for shape in row[3:]]
    factors, names = listed_factors(tensors, unet, "the list"), layer_names(vocabularies(unet)[OFFICIAL])
    theirs = {ours: name for name, ours in names.items()}
    found = [
        [theirs[ours], kind(unet.get_submodule(ours)), len(a), list(b.shape), list(a.shape)]
        for ours, (a, b) in factors.items()
    ]
    assert len(found) == golden.meta["n_pairs"]
    assert found == golden.meta["entries"]


@pytest.mark.parametrize("golden", fixtures("turbo_lora"), ids=str)
def test_the_list_merged_by_its_formula(golden: Fixture, tmp_path: Path):
    """Attached like any adapter, from its file; and added to the weights."""
    ledger, (unet, tensors) = Ledger(golden), given(golden)
    names, factors = vocabularies(unet)[OFFICIAL], listed_factors(tensors, unet, "the list")
    order = [name for name, ours in layer_names(names).items() if ours in factors]
    assert order == [row["module"] for row in golden.meta["lora_order"]]
    x, text, t, w = (golden.given(key) for key in ("x", "context", "timesteps", "w"))
    cond = Conditioning(text, torch.full((len(x),), golden.calls[0]["fps"]), guidance=w)
    torch.save(tensors, tmp_path / "unet_lora.pt")
    lora = LoraPerturbation.restore(unet, tmp_path / "unet_lora.pt")
    with torch.no_grad():
        ledger.check("y_injected", run(unet, x, t, cond))
        lora.detach()
        unet.load_state_dict(merged_list(unet.state_dict(), tensors, unet, tmp_path))
        ledger.check("y_collapsed", run(unet, x, t, cond))
    for key in golden.meta["collapsed_keys"]:
        ledger.check(f"collapsed.{key}", unet.get_parameter(names[key]).detach())
    ledger.close()


def test_a_list_of_another_network_is_refused_by_its_pair():
    (golden,) = fixtures("turbo_lora")
    unet, tensors = given(golden)
    with pytest.raises(UserError, match=r"list of 149 pairs up, down; this network has 150 layers"):
        listed_factors(tensors[2:], unet, "unet_lora.pt")
    swapped = [*tensors[:12], *tensors[14:16], *tensors[12:14], *tensors[16:]]
    with pytest.raises(UserError, match=r"unet_lora.pt: pair 6, input_blocks.1.0.in_layers.2: up is \[64, 6\]"):
        listed_factors(swapped, unet, "unet_lora.pt")
    with pytest.raises(UserError, match="holds a dict, not a list of tensors"):
        listed_factors({}, unet, "unet_lora.pt")
