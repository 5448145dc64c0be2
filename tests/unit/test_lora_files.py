"""Adapters on disk: peft's own format, back again, and what does not fit is refused."""

import json
from pathlib import Path

import peft
import pytest
import torch
from lora_net import Net, attached, example, frozen_net, randomise
from torch import Tensor, nn

from perturb.errors import UserError
from perturb.perturbation import LoraPerturbation


@pytest.fixture
def net() -> Net:
    return frozen_net()


@pytest.fixture
def x() -> Tensor:
    return example()


def test_saved_adapters_load_in_peft_and_back(net: Net, x: Tensor, tmp_path: Path) -> None:
    fresh, again = Net().eval().requires_grad_(False), Net().eval().requires_grad_(False)
    fresh.load_state_dict(net.state_dict())
    again.load_state_dict(net.state_dict())
    lora = attached(net, rank=3, alpha=5.0)
    randomise(lora)
    # all three frozen: torch's matmul looks at requires_grad when it picks a kernel, and kernels round
    expected = net.requires_grad_(False)(x)
    lora.save(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    model = peft.PeftModel.from_pretrained(fresh, str(tmp_path))
    assert torch.equal(model(x), expected)

    restored = LoraPerturbation.restore(again, tmp_path)
    assert torch.equal(again.requires_grad_(False)(x), expected)
    assert (restored.rank, restored.alpha) == (3, 5.0)

    randomised = [parameter.detach().clone() for parameter in lora.parameters()]
    with torch.no_grad():
        lora.parameters()[1].zero_()
    lora.load(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(randomised, lora.parameters(), strict=True))


def test_what_does_not_fit_is_refused_with_a_reason(net: Net, tmp_path: Path) -> None:
    lora = attached(net, rank=3)
    lora.save(tmp_path)
    lora.detach()
    with pytest.raises(UserError, match="not attached"):
        lora.load(tmp_path)
    with pytest.raises(UserError, match="r = 3"):
        attached(net, rank=2).load(tmp_path)
    with pytest.raises(UserError, match="attached already"):
        LoraPerturbation.restore(net, tmp_path)
    with pytest.raises(UserError, match="other layers"):
        attached(Net(), "second", rank=3).load(tmp_path)
    with pytest.raises(UserError, match="another network"):
        LoraPerturbation.restore(nn.Linear(2, 2), tmp_path)
    with pytest.raises(UserError, match="is missing"):
        LoraPerturbation.restore(Net(), tmp_path / "nowhere")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"x")
    with pytest.raises(UserError, match="cannot be read"):
        LoraPerturbation.restore(Net(), tmp_path)
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**settings, "peft_type": "LOHA"}))
    with pytest.raises(UserError):
        LoraPerturbation.restore(Net(), tmp_path)
