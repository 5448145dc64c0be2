"""Conversion there and back: every key, dtype and byte; whole or not at all."""

import dataclasses
import resource
from pathlib import Path

import pytest
import torch
from torch import Tensor

from perturb.convert import convert, main
from perturb.errors import UserError
from perturb.models.videocrafter.checkpoint import load_system, save_system
from perturb.models.videocrafter.files import read_weights, write_safetensors
from perturb.models.videocrafter.keymap import expected_keys
from perturb.models.videocrafter.keymap.diffusion import diffusion_buffers
from perturb.models.videocrafter.published import SPECS
from perturb.models.videocrafter.spec import ImageSpec, ModelSpec, ResamplerSpec
from perturb.models.videocrafter.system import VideoSystem

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@pytest.fixture(scope="module")
def spec(tiny_spec: ModelSpec) -> ModelSpec:
    """A tiny image-to-video model in the official manner: all five components and the largest set of extra keys."""
    sizes = ResamplerSpec(dim=32, depth=1, head_dim=16, heads=2, num_queries=4, embedding_dim=48, output_dim=32)
    image = ImageSpec(
        width=48, layers=2, head_width=16, patch_size=14, image_size=28, embed_dim=32, text_width=32, vocab_size=50,
        projector=sizes,
    )  # fmt: skip
    return dataclasses.replace(
        tiny_spec,
        name="tiny_i2v",
        unet=dataclasses.replace(tiny_spec.unet, image_attention=True),
        text=dataclasses.replace(tiny_spec.text, tokenizer="clip"),
        image=image,
        schedule=dataclasses.replace(tiny_spec.schedule, scale_table_length=1400),
    )


@pytest.fixture(autouse=True)
def _registry(monkeypatch, spec: ModelSpec) -> None:
    for name in list(SPECS):
        monkeypatch.delitem(SPECS, name)
    monkeypatch.setitem(SPECS, spec.name, spec)


@pytest.fixture(scope="module")
def state(spec: ModelSpec) -> dict[str, Tensor]:
    """Official weights in mixed dtypes, one of them not finite and one not contiguous; true diffusion buffers."""
    shapes = expected_keys(spec).items()
    weights = {key: torch.randn(shape).to(DTYPES[i % 3]) for i, (key, shape) in enumerate(shapes)}
    weights["cond_stage_model.model.logit_scale"] = torch.tensor(float("nan"))
    kernel = "model.diffusion_model.out.2.weight"
    weights[kernel] = weights[kernel].to(memory_format=torch.channels_last)
    # The three parts of a joint projection must share their dtype, and they do: they are one tensor.
    return weights | diffusion_buffers(spec.schedule)


@pytest.fixture
def checkpoint(tmp_path: Path, state: dict[str, Tensor]) -> Path:
    torch.save({"state_dict": state, "epoch": 12, "optimizer_states": [{"step": torch.ones(3)}]}, tmp_path / "m.ckpt")
    return tmp_path / "m.ckpt"


def raw(x: Tensor) -> bytes:
    return x.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def assert_identical(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert left.keys() == right.keys()
    for key, x in left.items():
        assert (x.dtype, x.shape) == (right[key].dtype, right[key].shape), key
        assert raw(x) == raw(right[key]), key


@pytest.mark.parametrize("name", ["back.ckpt", "back.safetensors"])
def test_round_trip_keeps_every_key_dtype_and_byte(tmp_path: Path, checkpoint: Path, state, name: str):
    assert main([str(checkpoint), str(tmp_path / "folder")]) == 0
    assert main([str(tmp_path / "folder"), str(tmp_path / name)]) == 0
    assert_identical(read_weights(tmp_path / name), state)
    if name.endswith("ckpt"):
        content = torch.load(tmp_path / name, weights_only=True)
        assert list(content) == ["state_dict"]
        stored = sum(x.untyped_storage().nbytes() for x in content["state_dict"].values())
        assert stored == sum(x.nbytes for x in state.values())  # no tensor drags a larger storage along


def test_the_folder_holds_one_file_per_component_and_loads(tmp_path: Path, checkpoint: Path, state, spec: ModelSpec):
    done = convert(checkpoint, tmp_path / "folder")
    assert f"{sum(x.numel() for x in state.values()):,} values" in done
    assert sorted(file.name for file in (tmp_path / "folder").iterdir()) == [
        "extra.safetensors",
        "image_encoder.safetensors",
        "image_projector.safetensors",
        "spec.json",
        "text_encoder.safetensors",
        "unet.safetensors",
        "vae.safetensors",
    ]
    with pytest.raises(UserError, match=r"1 tensors hold NaN or infinity: extra\.cond_stage_model\.model\.logit_scale"):
        load_system(tmp_path / "folder")
    system = load_system(tmp_path / "folder", expect_finite=False)
    assert system.spec == spec
    bias = system.vae.state_dict()["quant_conv.bias"]
    assert torch.equal(bias, state["first_stage_model.quant_conv.bias"].float())


def test_a_folder_copies_to_a_folder_and_official_to_official(tmp_path: Path, checkpoint: Path, state):
    convert(checkpoint, tmp_path / "a")
    convert(tmp_path / "a", tmp_path / "b", to="folder")
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()
    deepspeed = {"module": {f"_forward_module.{key}": x for key, x in state.items()}}
    torch.save(deepspeed, tmp_path / "deepspeed.ckpt")
    convert(tmp_path / "deepspeed.ckpt", tmp_path / "plain.ckpt", to="official")
    assert_identical(torch.load(tmp_path / "plain.ckpt", weights_only=True)["state_dict"], state)


def test_existing_targets_need_force(tmp_path: Path, checkpoint: Path, capsys):
    folder = tmp_path / "folder"
    assert main([str(checkpoint), str(folder)]) == 0
    assert main([str(checkpoint), str(folder)]) == 2
    assert "exists; give another path, or --force" in capsys.readouterr().err
    (folder / "unet.safetensors").write_bytes(b"")
    assert main([str(checkpoint), str(folder), "--force"]) == 0
    assert (folder / "unet.safetensors").stat().st_size > 0
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary.txt").write_text("dear diary")
    assert main([str(checkpoint), str(tmp_path / "mine"), "--force"]) == 2
    assert "no checkpoint of ours" in capsys.readouterr().err
    assert (tmp_path / "mine" / "diary.txt").exists()
    assert main([str(checkpoint), str(checkpoint), "--force", "--to", "official"]) == 2
    assert "are the same" in capsys.readouterr().err
    other = tmp_path / "other.ckpt"
    other.write_bytes(b"weights")
    assert main([str(checkpoint), str(other), "--force"]) == 2  # the default format would be a folder
    assert "is a file, and our format is a folder" in capsys.readouterr().err
    assert other.read_bytes() == b"weights"


@pytest.mark.parametrize("name", ["out.ckpt", "out.safetensors", "out"])
def test_a_full_disk_leaves_nothing_half_done(tmp_path: Path, checkpoint: Path, name: str):
    source = checkpoint
    if name != "out":
        convert(checkpoint, tmp_path / "folder")
        source = tmp_path / "folder"
    target = tmp_path / name
    before = sorted(tmp_path.iterdir())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # a write past this fails as on a full disk
    try:
        with pytest.raises(
            UserError, match=r"cannot write .* nothing was left|the disk is full, or .*: .*/out\.ckpt could not be"
        ):
            convert(source, target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(tmp_path.iterdir()) == before


def test_what_cannot_become_official_is_said(tmp_path: Path, checkpoint: Path, tiny_system: VideoSystem, capsys):
    words = save_system(tiny_system, tmp_path / "words")
    with pytest.raises(UserError, match=r"tokenizer\.json, which an official file cannot hold: it stays a folder"):
        convert(words, tmp_path / "words.ckpt")
    convert(checkpoint, tmp_path / "folder")
    (tmp_path / "folder" / "extra.safetensors").unlink()
    assert main([str(tmp_path / "folder"), str(tmp_path / "bare.ckpt")]) == 2
    message = capsys.readouterr().err
    assert "missing" in message
    assert "model.text_projection" in message
    assert "no extra.safetensors" in message


def test_sources_that_do_not_fit_are_refused(tmp_path: Path, checkpoint: Path, state, capsys):
    assert main([str(tmp_path / "nowhere.ckpt"), str(tmp_path / "out")]) == 2
    assert "no checkpoint at" in capsys.readouterr().err
    write_safetensors(tmp_path / "less.safetensors", dict(list(state.items())[5:]))
    assert main([str(tmp_path / "less.safetensors"), str(tmp_path / "out"), "--spec", "tiny_i2v"]) == 2
    assert "5 missing" in capsys.readouterr().err
    assert main([str(checkpoint), str(tmp_path / "out"), "--spec", "tiny_i2w"]) == 2
    assert "Did you mean 'tiny_i2v'?" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_help_names_both_formats(capsys):
    with pytest.raises(SystemExit) as leave:
        main(["--help"])
    assert leave.value.code == 0
    text = capsys.readouterr().out
    assert "SRC" in text
    assert "spec.json" in text
    assert "--force" in text
