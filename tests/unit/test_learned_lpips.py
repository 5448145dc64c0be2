"""LPIPS against the lpips package on the same weights in torchvision's file format."""

from pathlib import Path

import numpy as np
import pytest
import torch
from learned_files import frames, scene, write_trunk
from torch import nn

from perturb.errors import UserError
from perturb.metrics import Clip, Context
from perturb.metrics.learned.lpips import Lpips

ORIGINAL = scene(0)
CHANGED = Clip(scene(1).frames, 8.0, ORIGINAL.prompt_id, 0, 100)
CONTEXT = Context({ORIGINAL.sample: ORIGINAL})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("weights")
    (place / "hub" / "checkpoints").mkdir(parents=True)
    write_trunk(place / "hub" / "checkpoints")
    write_trunk(place / "hub" / "checkpoints", "vgg")
    return place / "hub" / "checkpoints"


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("net", "prefix"), [("alex", "lpips"), ("vgg", "lpips_vgg")])
def test_lpips_equals_the_package_on_the_same_weights(
    folder: Path, monkeypatch: pytest.MonkeyPatch, net: str, prefix: str
) -> None:
    import lpips

    monkeypatch.setenv("TORCH_HOME", str(folder.parents[1]))
    state = torch.load(folder / Lpips(net=net).weights[0].name)
    if net == "alex":
        package = lpips.LPIPS(net=net, verbose=False)  # reads the trunk from TORCH_HOME by itself
    else:  # the package would want the classifier too, half a gigabyte
        package = lpips.LPIPS(net=net, verbose=False, pnet_rand=True)
        own = {key: state["features." + key.partition(".")[2]] for key in package.net.state_dict()}
        package.net.load_state_dict(own)
    before = torch.get_rng_state()
    found = Lpips(net=net, chunk=4)([ORIGINAL, CHANGED], CONTEXT)
    assert torch.equal(torch.get_rng_state(), before), "loading must not touch the caller's random state"
    then, now = (frames(one) / 127.5 - 1 for one in (ORIGINAL, CHANGED))
    with torch.no_grad():
        drift = package(now, then).mean().item()
        flicker = package(now[1:], now[:-1]).mean().item()
    assert found[f"{prefix}_drift"][0].value == 0
    assert found[f"{prefix}_drift"][1].value == pytest.approx(drift, rel=1e-5)
    assert found[f"{prefix}_flicker"][1].value == pytest.approx(flicker, rel=1e-5)
    assert drift > 1e-4
    assert flicker > 1e-4


def test_a_clip_that_cannot_be_compared_says_why_and_the_rest_go_on(folder: Path) -> None:
    stranger = Clip(CHANGED.frames, 8.0, "stranger", 5, 100)
    short = Clip(CHANGED.frames[:1], 8.0, ORIGINAL.prompt_id, 0, 100)
    tiny = Clip(np.zeros((2, 9, 9, 3), np.uint8), 8.0, "tiny", 0, 0)
    context = Context({ORIGINAL.sample: ORIGINAL, tiny.sample: tiny})
    found = Lpips(weights=str(folder))([stranger, short, tiny, CHANGED], context)
    drift, flicker = found["lpips_drift"], found["lpips_flicker"]
    assert [value.status for value in drift] == ["unavailable", "failed", "failed", "ok"]
    assert "prompt stranger seed 5" in drift[0].reason
    assert "(4, 40, 48, 3)" in drift[1].reason
    assert [value.status for value in flicker] == ["ok", "failed", "failed", "ok"]
    assert "at least 2" in flicker[1].reason
    assert flicker[0] == flicker[3]


def test_a_static_clip_does_not_flicker_and_batching_changes_nothing(folder: Path) -> None:
    static = Clip(np.repeat(ORIGINAL.frames[:1], 3, axis=0), 8.0, "static", 0, 0)
    larger = scene(3, frames=3, size=(48, 40))
    clips = [static, ORIGINAL, larger, CHANGED]
    metric = Lpips(weights=str(folder), chunk=4)
    together = metric(clips, CONTEXT)
    assert together["lpips_flicker"][0].value == 0
    for name, values in together.items():
        assert list(values) == [metric([clip], CONTEXT)[name][0] for clip in clips]


def test_the_trunk_sees_every_frame_once(folder: Path) -> None:
    metric = Lpips(weights=str(folder), chunk=4)
    seen: list[int] = []
    trunk = metric.network().net
    assert isinstance(trunk, nn.Module)
    trunk.register_forward_hook(lambda _module, given, _found: seen.append(len(given[0])))
    found = metric([ORIGINAL, CHANGED, scene(5, frames=3)], CONTEXT)
    assert sum(seen) == 2 * (4 + 4) + 4  # now and at step 0, and three frames and a filler without step 0
    assert [value.status for value in found["lpips_flicker"]] == ["ok"] * 3


def test_an_unknown_trunk_is_named() -> None:
    with pytest.raises(UserError, match="'squeeze'; allowed: alex, vgg"):
        Lpips(net="squeeze")
