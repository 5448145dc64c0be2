"""Adapters as they are found: of other ways to begin, with parts beside A and B, damaged, in peft's old form."""

import json
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from lora_net import Net, attached, frozen_net, randomise
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from perturb.errors import UserError
from perturb.perturbation import LoraPerturbation
from perturb.perturbation.moved import FILE, MovedWeights

WEIGHTS, SETTINGS = "adapter_model.safetensors", "adapter_config.json"
LAYER = "base_model.model.conv"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sound adapter of rank 3."""
    lora = attached(frozen_net(), rank=3, alpha=5.0)
    randomise(lora)
    lora.save(tmp_path / "adapter")
    return tmp_path / "adapter"


def configure(folder: Path, **settings: Any) -> None:
    path = folder / SETTINGS
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def edit(folder: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def refused(folder: Path) -> str:
    """The message, and that the network is as it was."""
    net = frozen_net()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with pytest.raises(UserError) as caught:
        LoraPerturbation.restore(net, folder)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert net.state_dict().keys() == before.keys()
    return str(caught.value)


# how it began ---------------------------------------------------------------------------------------------------------


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


def two() -> Two:
    torch.manual_seed(0)
    return Two().requires_grad_(False)


def saved_by_peft(init: Any, folder: Path) -> tuple[bool, Any]:
    """An untrained adapter of that initialisation; whether peft changed the base weights for it; and peft's model."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that eva has no settings
        config = peft.LoraConfig(r=2, lora_alpha=2, target_modules=["first", "second"], init_lora_weights=init)
        model = peft.get_peft_model(two(), config)  # pyright: ignore[reportArgumentType]
        model.save_pretrained(str(folder))
    base = model.base_model.model
    same = all(torch.equal(getattr(base, n).base_layer.weight, getattr(two(), n).weight) for n in ("first", "second"))
    return not same, model


@pytest.mark.parametrize(
    "init", [True, False, "gaussian", "orthogonal", "eva", "mica", "pissa", "pissa_niter_4", "olora"]
)
def test_an_adapter_is_refused_where_peft_changed_the_base_and_only_there(init: Any, tmp_path: Path):
    changed, model = saved_by_peft(init, tmp_path)
    if changed:
        with pytest.raises(UserError, match=r"init_lora_weights is .*path_initial_model_for_weight_conversion"):
            LoraPerturbation.restore(two(), tmp_path)
        return
    net, x = two(), torch.randn(3, 8)
    LoraPerturbation.restore(net, tmp_path)
    torch.testing.assert_close(net(x), model(x))


@pytest.mark.parametrize("init", ["corda", "loftq", "lora_ga", "something_of_next_year", 1, ["pissa"]])
def test_an_unknown_or_data_driven_beginning_is_refused(init: Any, folder: Path):
    configure(folder, init_lora_weights=init)
    assert "path_initial_model_for_weight_conversion" in refused(folder)


def test_the_conversion_that_the_message_names_gives_an_adapter_that_is_read_right(tmp_path: Path):
    changed, model = saved_by_peft("pissa", tmp_path / "before")
    assert changed
    with torch.no_grad():  # training, as it were
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.add_(0.1)
    model.save_pretrained(str(tmp_path / "after"), path_initial_model_for_weight_conversion=str(tmp_path / "before"))
    net, x = two(), torch.randn(3, 8)
    perturbation = LoraPerturbation.restore(net, tmp_path / "after")
    assert perturbation.rank == 4  # the trained factors and the ones before training
    torch.testing.assert_close(net(x), model(x), atol=1e-5, rtol=1e-5)


# what would be dropped ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("bias", "all"),
        ("bias", "lora_only"),
        ("modules_to_save", ["conv"]),
        ("lora_bias", True),
        ("use_dora", True),
        ("rank_pattern", {"conv": "4"}),
        ("alpha_pattern", {"(": 4}),
        ("trainable_token_indices", [1]),
        ("layer_replication", [[0, 1]]),
        ("alora_invocation_tokens", [1]),
        ("use_qalora", True),
        ("a_setting_of_next_year", 0.5),
    ],
)
def test_a_setting_that_changes_the_adapter_is_refused_by_name(key: str, value: Any, folder: Path):
    configure(folder, **{key: value})
    assert f"{key} = {json.dumps(value)}" in refused(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("bias", "none"),
        ("modules_to_save", None),
        ("rank_pattern", {}),
        ("layers_pattern", "outer"),
        ("peft_version", "9"),
    ],
)
def test_settings_that_change_nothing_are_read(key: str, value: Any, folder: Path):
    configure(folder, **{key: value})
    assert LoraPerturbation.restore(frozen_net(), folder).rank == 3


@pytest.mark.parametrize(
    "name",
    [
        f"{LAYER}.bias",
        f"{LAYER}.lora_B.bias",
        f"{LAYER}.lora_magnitude_vector",
        f"{LAYER}.modules_to_save.weight",
        f"{LAYER}.base_layer.bias",
        "lora_unet_conv.dora_scale",
    ],
)
def test_a_tensor_that_would_be_dropped_is_named(name: str, folder: Path):
    edit(folder, lambda tensors: tensors.update({name: torch.ones(3)}))
    assert repr(name) in refused(folder)


# damaged --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("which", ["A", "B"])
def test_values_that_are_no_numbers_are_refused(value: float, which: str, folder: Path):
    edit(folder, lambda tensors: tensors[f"{LAYER}.lora_{which}.weight"].view(-1)[-1:].fill_(value))
    message = refused(folder)
    assert "1 of 14 tensors hold NaN or infinity" in message
    assert f"{LAYER}.lora_{which}.weight" in message


def test_a_value_too_large_for_the_float32_in_which_it_is_used_is_refused(folder: Path):
    name = f"{LAYER}.lora_B.weight"
    edit(folder, lambda tensors: tensors.update({name: torch.full_like(tensors[name], 1e300, dtype=torch.float64)}))
    assert name in refused(folder)


def test_moved_weights_that_are_no_numbers_are_refused(tmp_path: Path):
    net = nn.Linear(2, 2)
    moved = MovedWeights(net, ["weight"], trained=False)
    moved.save(tmp_path)
    tensors = load_file(tmp_path / FILE)
    tensors["weight"][0, 0] = float("nan")
    save_file(tensors, tmp_path / FILE, metadata={"base": moved.base()})
    with pytest.raises(UserError, match=r"NaN or infinity, e\.g\. weight"):
        moved.load(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("lora_alpha", None),
        ("lora_alpha", "8"),
        ("lora_alpha", float("nan")),
        ("lora_alpha", -1),
        ("r", None),
        ("r", 2.5),
        ("r", True),
        ("r", [3]),
        ("lora_dropout", None),
        ("lora_dropout", 1.5),
        ("peft_type", None),
        ("peft_type", "LOHA"),
    ],
)
def test_a_malformed_setting_is_named_with_its_value(key: str, value: Any, folder: Path):
    configure(folder, **{key: value})
    assert f"{key} is {value!r}" in refused(folder)


@pytest.mark.parametrize("key", ["r", "lora_alpha", "peft_type"])
def test_a_missing_setting_is_named(key: str, folder: Path):
    settings = json.loads((folder / SETTINGS).read_text())
    del settings[key]
    (folder / SETTINGS).write_text(json.dumps(settings))
    assert f"{key} is None" in refused(folder)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "cannot be read"),
        (b"not json", "cannot be read"),
        (b"[1, 2]", "holds a list"),
        (b"null", "holds a NoneType"),
        (b"[" * 100_000, "cannot be read"),
        ('{"peft_type": "LORA", "note": "ü"}'.encode("latin-1"), "is not UTF-8"),
        ('{"peft_type": "LORA"}'.encode("utf-16"), "is not UTF-8"),
    ],
)
def test_settings_that_are_none_end_in_a_message_with_the_file(content: bytes, said: str, folder: Path):
    (folder / SETTINGS).write_bytes(content)
    message = refused(folder)
    assert said in message
    assert str(folder / SETTINGS) in message


def test_settings_with_a_byte_order_mark_are_read(folder: Path):
    (folder / SETTINGS).write_bytes(b"\xef\xbb\xbf" + (folder / SETTINGS).read_bytes())
    assert LoraPerturbation.restore(frozen_net(), folder).alpha == 5


def test_a_file_of_no_tensors_or_of_whole_numbers_is_refused(folder: Path):
    edit(folder, lambda tensors: tensors.update({f"{LAYER}.lora_A.weight": torch.ones(3, 3, 1, 1, dtype=torch.int8)}))
    assert "holds torch.int8" in refused(folder)
    save_file({}, folder / WEIGHTS)
    assert "holds no tensors" in refused(folder)
    (folder / WEIGHTS).write_bytes(b"")
    assert "cannot be read" in refused(folder)


# old form -------------------------------------------------------------------------------------------------------------


def test_the_old_form_is_named_and_the_command_in_the_message_converts_it(folder: Path, tmp_path: Path):
    old = tmp_path / "an old one's"  # a name that a shell would take apart
    shutil.copytree(folder, old)
    (old / WEIGHTS).unlink()
    torch.save(load_file(folder / WEIGHTS), old / "adapter_model.bin")
    message = refused(old)
    assert "adapter_model.bin is peft's old form" in message
    command = message.splitlines()[1].strip().replace("python", sys.executable, 1)
    subprocess.run(command, shell=True, check=True)
    mine, again = (LoraPerturbation.restore(Net(), place) for place in (folder, old))
    assert all(torch.equal(a, b) for a, b in zip(mine.parameters(), again.parameters(), strict=True))
