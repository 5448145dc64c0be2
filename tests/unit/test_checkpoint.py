"""Loading official files: strict, safe, lean, and exactly the weights in the file."""

import dataclasses
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from checkpoint_files import as_first_published, as_published, equal, official, random_state, written_back
from torch import Tensor

from perturb.errors import UserError
from perturb.models.videocrafter.checkpoint import load_system, open_checkpoint
from perturb.models.videocrafter.files import write_safetensors
from perturb.models.videocrafter.keymap import expected_keys
from perturb.models.videocrafter.keymap.diffusion import diffusion_buffers
from perturb.models.videocrafter.published import SPECS
from perturb.models.videocrafter.spec import ImageSpec, ModelSpec, ResamplerSpec
from perturb.models.videocrafter.system import VideoSystem, build_system

UNET = "model.diffusion_model."
TEXT = "cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight"


@pytest.fixture(scope="module")
def spec(tiny_spec: ModelSpec) -> ModelSpec:
    return as_published(tiny_spec)


@pytest.fixture(scope="module")
def other_spec(spec: ModelSpec) -> ModelSpec:
    return as_first_published(spec)


@pytest.fixture(scope="module")
def image_spec(spec: ModelSpec) -> ModelSpec:
    """The same widths with an image branch."""
    sizes = ResamplerSpec(dim=32, depth=1, head_dim=16, heads=2, num_queries=4, embedding_dim=48, output_dim=32)
    image = ImageSpec(
        width=48, layers=2, head_width=16, patch_size=14, image_size=28, embed_dim=32, text_width=32, vocab_size=50,
        projector=sizes,
    )  # fmt: skip
    unet = dataclasses.replace(spec.unet, image_attention=True)
    return dataclasses.replace(spec, name="tiny_i2v", unet=unet, image=image)


@pytest.fixture
def registry(monkeypatch, spec: ModelSpec, other_spec: ModelSpec) -> None:
    """Only the two tiny models are published."""
    for name in list(SPECS):
        monkeypatch.delitem(SPECS, name)
    monkeypatch.setitem(SPECS, other_spec.name, other_spec)
    monkeypatch.setitem(SPECS, spec.name, spec)


def tensors_of(system: VideoSystem) -> list[Tensor]:
    """Parameters, buffers (saved or not) and plain tensor attributes of every module."""
    modules = [part for module in system.modules().values() for part in module.modules()]
    owned = [part.__dict__ | part._parameters | part._buffers for part in modules]
    return [x for attributes in owned for x in attributes.values() if isinstance(x, Tensor)]


def test_every_tensor_of_the_file_arrives_and_the_hash_is_recorded(tmp_path: Path, image_spec: ModelSpec):
    state = random_state(image_spec)
    path = official(tmp_path / "model.ckpt", state)
    system = load_system(path, image_spec)
    assert equal(written_back(system), state)
    assert system.provenance == {
        "checkpoint": str(path),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "format": "official",
        "spec": "tiny_i2v",
    }
    q, _, v = state[TEXT].chunk(3)
    layer = system.text_encoder.state_dict()
    assert torch.equal(layer["transformer.encoder.layers.0.self_attn.q_proj.weight"], q)
    assert torch.equal(layer["transformer.encoder.layers.0.self_attn.v_proj.weight"], v)


def test_nothing_stays_on_meta_and_the_parts_compute_as_if_built_in_memory(tmp_path: Path, image_spec: ModelSpec):
    loaded = load_system(official(tmp_path / "model.ckpt", random_state(image_spec)), image_spec)
    assert not any(x.is_meta for x in tensors_of(loaded))
    assert not any(module.training for module in loaded.modules().values())
    built = build_system(image_spec)
    for name, module in built.modules().items():
        module.load_state_dict(loaded.modules()[name].state_dict())  # copies, and keeps the buffers it was built with
    ids, image = torch.randint(0, image_spec.text.vocab_size, (1, image_spec.text.tokens)), torch.rand(1, 3, 40, 30)
    video, latent = torch.rand(1, 3, 1, 16, 16), torch.randn(1, 4, 2, 4, 4)
    with torch.no_grad():
        assert torch.equal(built.text_encoder(ids), loaded.text_encoder(ids))
        assert torch.equal(built.embed_image(image), loaded.embed_image(image))
        assert torch.equal(built.encode(video), loaded.encode(video))
        given = (latent, torch.tensor([7]), built.text_encoder(ids), torch.tensor([8]))
        tokens = built.embed_image(image)
        assert torch.equal(built.unet(*given, image_context=tokens), loaded.unet(*given, image_context=tokens))


def test_training_in_place_leaves_the_file_alone(tmp_path: Path, spec: ModelSpec):
    path = official(tmp_path / "model.ckpt", random_state(spec))
    write_safetensors(tmp_path / "model.safetensors", random_state(spec))
    for file in (path, tmp_path / "model.safetensors"):
        before = file.read_bytes()
        system = load_system(file, spec)
        with torch.no_grad():
            for parameter in system.unet.parameters():
                parameter.add_(1.0)
        assert file.read_bytes() == before


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
def test_half_precision_files_are_cast_exactly(tmp_path: Path, spec: ModelSpec, stored: torch.dtype):
    state = random_state(spec, stored)
    path = official(tmp_path / "half.ckpt", state)
    wide = load_system(path, spec)
    weights = {key: x for key, x in state.items() if key.startswith(UNET)}
    assert wide.dtype == torch.float32
    assert all(torch.equal(written_back(wide)[key], x.float()) for key, x in list(weights.items())[:20])
    narrow = load_system(path, spec, dtype=str(stored).removeprefix("torch."))
    assert {x.dtype for x in narrow.unet.parameters()} == {stored}
    assert {x.dtype for x in narrow.text_encoder.parameters()} == {torch.float32}


def test_misfits_are_listed_by_kind_in_official_names(tmp_path: Path, spec: ModelSpec):
    state = random_state(spec)
    gone = [key for key in state if key.startswith("first_stage_model.encoder.down")]
    for key in gone:
        del state[key]
    state[UNET + "ghost.weight"] = torch.zeros(2)
    state[UNET + "out.2.bias"] = torch.zeros(9)
    with pytest.raises(UserError) as error:
        load_system(official(tmp_path / "model.ckpt", state), spec)
    message = str(error.value)
    assert f"{len(gone)} missing ({len(gone)} in first_stage_model):" in message
    assert message.count("\n    first_stage_model.") == 10
    assert f"… and {len(gone) - 10} more" in message
    assert "1 unexpected (1 in model.diffusion_model):\n    model.diffusion_model.ghost.weight  [2]" in message
    assert "1 of another shape (1 in model.diffusion_model):" in message
    assert "model.diffusion_model.out.2.bias  given [9], wanted [4]" in message


@pytest.mark.usefixtures("registry")
def test_a_file_that_fits_another_model_says_which(tmp_path: Path, spec: ModelSpec, other_spec: ModelSpec):
    state = random_state(other_spec)
    path = official(tmp_path / "model.ckpt", state)
    with pytest.raises(UserError, match=r"is exactly tiny_v1: pass system\.spec=tiny_v1"):
        load_system(path, "tiny_v2")
    assert load_system(path).spec == other_spec  # recognised by its keys
    del state["betas"]
    with pytest.raises(UserError, match=r"looks like .* tiny_v1: pass system\.spec=tiny_v1"):
        load_system(official(path, state), spec)
    with pytest.raises(UserError, match=r"exactly none of .*nearest is tiny_v1, with 100%.*--spec tiny_v1"):
        load_system(path)
    with pytest.raises(UserError, match="No published model fits it better"):
        load_system(official(path, {"a": torch.ones(1)}), spec)


def test_unknown_spec_dtype_and_device_are_named(tmp_path: Path):
    with pytest.raises(UserError, match="t2v_512_v2"):
        load_system(tmp_path / "x.ckpt", "t2v_512_v3")
    with pytest.raises(UserError, match="'float8'; allowed: float32"):
        load_system(tmp_path / "x.ckpt", dtype="float8")
    with pytest.raises(UserError, match="device 'toaster' cannot be used"):
        load_system(tmp_path / "x.ckpt", device="toaster")


def test_weights_that_are_not_numbers_are_refused_unless_asked_for(tmp_path: Path, spec: ModelSpec):
    state = random_state(spec)
    state[UNET + "out.2.bias"][1] = float("nan")
    state["first_stage_model.quant_conv.bias"][0] = float("inf")
    path = official(tmp_path / "model.ckpt", state)
    with pytest.raises(UserError, match=r"2 tensors hold NaN or infinity: unet\..*, vae\.quant_conv\.bias"):
        load_system(path, spec)
    assert load_system(path, spec, expect_finite=False).unet.state_dict()


def test_quantised_weights_are_refused_by_name(tmp_path: Path, spec: ModelSpec):
    state = random_state(spec)
    state[UNET + "out.2.bias"] = torch.zeros(4, dtype=torch.int8)
    with pytest.raises(UserError, match=r"1 tensors are no plain weights, e\.g\. unet\.conv_out\.bias is int8"):
        load_system(official(tmp_path / "model.ckpt", state), spec)


@pytest.mark.parametrize(("table", "t"), [("betas", 0), ("alphas_cumprod", 500), ("scale_arr", 999)])
def test_another_noise_schedule_is_refused(tmp_path: Path, spec: ModelSpec, table: str, t: int):
    state = random_state(spec)
    state[table][t] *= 1.001
    with pytest.raises(UserError, match=rf"another noise schedule than tiny_v2: {table}\[{t}\] is"):
        load_system(official(tmp_path / "model.ckpt", state), spec)


def test_an_official_file_cannot_serve_a_model_with_its_own_words(tmp_path: Path, tiny_spec: ModelSpec):
    path = official(tmp_path / "model.ckpt", random_state(tiny_spec))
    assert open_checkpoint(path, tiny_spec).spec == tiny_spec
    with pytest.raises(UserError, match=r"needs a tokenizer\.json"):
        load_system(path, tiny_spec)


MEASURE = """
import json, sys
from pathlib import Path
from perturb.models.videocrafter.checkpoint import load_system
from perturb.models.videocrafter.spec import ModelSpec

def kilobytes(file, name):
    return next(int(line.split()[1]) for line in Path(file).read_text().splitlines() if line.startswith(name))

small, small_spec, large_spec, *files = sys.argv[1:]
load_system(small, ModelSpec.from_dict(json.loads(small_spec)))  # imports and caches are paid for here
for file in files:
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before = {name: kilobytes("/proc/self/smaps_rollup", name) for name in ("Rss", "Anonymous")}
    system = load_system(file, ModelSpec.from_dict(json.loads(large_spec)))
    anonymous = kilobytes("/proc/self/smaps_rollup", "Anonymous") - before["Anonymous"]
    print(json.dumps({"peak": kilobytes("/proc/self/status", "VmHWM") - before["Rss"], "anonymous": anonymous}))
    del system
"""


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="memory is measured through Linux' /proc")
def test_loading_needs_little_more_memory_than_the_file(tmp_path: Path, spec: ModelSpec):
    unet = dataclasses.replace(spec.unet, model_channels=160, channel_mult=(1, 2, 2))
    large_spec = dataclasses.replace(spec, unet=unet)
    small = official(tmp_path / "small.ckpt", random_state(spec))
    state = {key: torch.zeros(shape) for key, shape in expected_keys(large_spec).items()}
    state |= diffusion_buffers(spec.schedule)
    files = [official(tmp_path / "large.ckpt", state), tmp_path / "large.safetensors"]
    write_safetensors(files[1], state)
    specs = [json.dumps(each.to_dict()) for each in (spec, large_spec)]
    command = [sys.executable, "-c", MEASURE, str(small), *specs, *map(str, files)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    for file, line in zip(files, output.splitlines()[-2:], strict=True):
        size = file.stat().st_size
        growth = {name: 1024 * kb / size for name, kb in json.loads(line).items()}
        assert 200e6 < size < 400e6
        assert growth["peak"] < 1.2, (file, growth)  # file-mapped pages included
        assert growth["anonymous"] < 0.05, (file, growth)  # what the machine cannot take back by itself
