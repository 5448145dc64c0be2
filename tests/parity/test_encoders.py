"""Autoencoder, text and image encoders, tokenizer and image loading against the published ones."""

from typing import Any

import pytest
import torch
from einops import rearrange
from torch import Tensor

from perturb.data.images import published_resize
from perturb.models.videocrafter.keymap.encoders import (
    Rule,
    convert_to_official,
    convert_to_ours,
    image_leftovers,
    image_rules,
    text_leftovers,
    text_rules,
    vae_rules,
)
from perturb.models.videocrafter.preprocess import preprocess_image
from perturb.models.videocrafter.tokenizer import ClipTokenizer
from tests.parity.fixtures import Fixture, fixtures, requires_fixtures
from tests.parity.models import Ledger, image_spec, load_image, load_text, load_vae, text_spec, vae_spec, vae_system

pytestmark = requires_fixtures


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


@pytest.mark.parametrize("golden", fixtures("vae"), ids=str)
def test_vae(golden: Fixture, monkeypatch: pytest.MonkeyPatch):
    vae, ledger, scale = load_vae(golden), Ledger(golden), vae_spec(golden).scale_factor
    for image in sorted(name.removeprefix("mean_") for name in golden.outputs("mean_")):
        posterior = vae.encode(golden.given(f"image_{image}")).latent_dist
        for name, actual in (("mean", posterior.mean), ("logvar", posterior.logvar), ("std", posterior.std)):
            ledger.check(f"{name}_{image}", actual)
        if f"sample_{image}" in golden.outputs():
            sample = posterior.mean + posterior.std * golden.given(f"noise_{image}")
            ledger.check(f"sample_{image}", sample)
            ledger.check(f"z_{image}", scale * sample)
            ledger.check(f"encoder_conv_out_{image}", vae.encoder(golden.given(f"image_{image}")))
    ledger.check("decoded", vae.decode(golden.given("z_raw")).sample)
    check_video(golden, ledger, monkeypatch)
    ledger.close()


def check_video(golden: Fixture, ledger: Ledger, monkeypatch: pytest.MonkeyPatch):
    """``VideoSystem.encode`` and ``decode`` are the published helpers around the autoencoder."""
    system, z, video = vae_system(golden), golden.given("z_video"), golden.given("video")
    ledger.check("decode_first_stage", system.decode(z))
    ledger.check("decode_first_stage_2DAE", system.decode(z, frames_per_batch=1))
    noise = rearrange(golden.given("noise_video"), "(b t) c h w -> b c t h w", b=len(video))
    monkeypatch.setattr("perturb.models.videocrafter.system.draw", lambda shape, generators, device: noise)
    ledger.check("encode_first_stage", system.encode(video, [torch.Generator()] * len(video)))


@pytest.mark.parametrize("golden", fixtures("vae"), ids=str)
def test_vae_keys_there_and_back(golden: Fixture):
    there_and_back(golden.state, vae_rules(vae_spec(golden)), {})


@pytest.mark.parametrize("golden", fixtures("openclip_text"), ids=str)
def test_text_encoder(golden: Fixture):
    ledger, ids = Ledger(golden), golden.given("tokens")
    first: list[Any] = []
    encoder = load_text(golden)
    block = encoder.get_submodule("transformer.encoder.layers.0")
    # transformers 4 returns a tuple here, transformers 5 the tensor.
    block.register_forward_hook(lambda module, args, out: first.append(out[0] if isinstance(out, tuple) else out))
    ledger.check("penultimate", encoder(ids))
    ledger.check("after_block0", first[0])
    ledger.check("last", load_text(golden, skip_last=0)(ids))
    ledger.close()


@pytest.mark.parametrize("golden", fixtures("openclip_text"), ids=str)
def test_text_keys_there_and_back(golden: Fixture):
    spec = text_spec(golden)
    there_and_back(golden.state, text_rules(spec), text_leftovers(spec))


@pytest.mark.parametrize("golden", fixtures("openclip_image"), ids=str)
def test_image_encoder(golden: Fixture):
    encoder, ledger = load_image(golden), Ledger(golden)
    for call in golden.calls:
        name, stride = call["name"], call["preprocessed_stride"]
        image = torch.zeros(call["zeros"]) if "zeros" in call else signed(golden.given(f"{name}.image_u8"))
        pixels = preprocess_image(image, encoder.image_size)
        ledger.check(f"{name}.preprocessed_sub{stride}", pixels[:, :, ::stride, ::stride])
        ledger.check(f"{name}.tokens", encoder(image))
    for name in golden.outputs():
        if name.endswith(".pooled_unused"):
            # CLIP's pooled output through a projection that VideoCrafter never reads, from the same state all the same.
            transformer = encoder.transformer
            pooled = transformer(pixel_values=preprocess_image(signed(golden.given("c0.image_u8")), 224)).pooler_output
            ledger.check(name, pooled @ golden.state["model.visual.proj"])
    ledger.close()


@pytest.mark.parametrize("golden", fixtures("openclip_image"), ids=str)
def test_image_keys_there_and_back(golden: Fixture):
    spec = image_spec(golden)
    there_and_back(golden.state, image_rules(spec), image_leftovers(spec))


@pytest.mark.parametrize("golden", fixtures("tokenizer"), ids=str)
def test_tokenizer(golden: Fixture):
    items = golden.meta["items"]
    ids = ClipTokenizer()([item["text"] for item in items])
    for item, row in zip(items, ids.tolist(), strict=True):
        assert row == item["ids"], item["text"]


@pytest.mark.parametrize("golden", fixtures("image_loading"), ids=str)
def test_image_loading(golden: Fixture):
    assert "atol 1e-5" in golden.meta["tolerance"]["note"]
    for call in golden.calls:
        image = golden.given(f"{call['name']}.image_u8").numpy()
        actual = published_resize(image, *call["image_size"])
        torch.testing.assert_close(actual, golden.expected(f"{call['name']}.tensor"), rtol=0, atol=1e-5)
    assert len(golden.outputs()) == len(golden.calls)


def signed(image: Tensor) -> Tensor:
    """b h w c uint8 → b c h w in [−1, 1], as the published scripts do it."""
    return (rearrange(image, "b h w c -> b c h w").float() / 255 - 0.5) * 2


def there_and_back(state: dict[str, Tensor], rules: tuple[Rule, ...], leftovers: dict[str, tuple[int, ...]]):
    """Every key is used or a known leftover, ours are views, and the official state comes back bit for bit."""
    used = {rule.official for rule in rules}
    assert len(used) == len(rules)
    assert used | set(leftovers) == set(state)
    assert {key: tuple(state[key].shape) for key in leftovers} == leftovers
    ours = convert_to_ours(state, rules)
    storages = {tensor.untyped_storage().data_ptr() for tensor in state.values()}
    assert all(tensor.untyped_storage().data_ptr() in storages for tensor in ours.values())
    again = convert_to_official(ours, rules)
    assert all(torch.equal(again[key], state[key]) for key in used)
