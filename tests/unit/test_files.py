"""Reading weights safely: every packing gives the same bytes back, everything else is refused in plain words."""

import collections
import hashlib
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from perturb.errors import UserError
from perturb.models.videocrafter.files import (
    read_weights,
    separate,
    weight_files,
    write_checkpoint,
    write_safetensors,
)
from perturb.store.hashes import sha256, sha256_of
from perturb.store.tensors import non_finite


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "model.a.weight": torch.randn(3, 5, generator=generator),
        "model.b": torch.randn(7, generator=generator).half(),
        "model.c": torch.randn(2, 2, generator=generator).bfloat16(),
        "scale": torch.tensor(2.5),
        "ids": torch.arange(4),
    }


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    """Equal keys, dtypes, shapes and bytes."""
    return left.keys() == right.keys() and all(
        x.dtype == right[key].dtype and x.shape == right[key].shape and raw(x) == raw(right[key])
        for key, x in left.items()
    )


def raw(x: torch.Tensor) -> bytes:
    return x.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def official(path: Path, content: object, zipped: bool = True) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


def test_every_packing_of_a_torch_file_gives_the_same_weights(tmp_path: Path, weights):
    ordered = collections.OrderedDict(weights)
    packings = {
        "lightning": {"state_dict": ordered, "epoch": 3, "global_step": 7, "optimizer_states": [{"lr": 0.1}]},
        "bare": weights,
        "deepspeed": {"module": {f"_forward_module.{key}": x for key, x in weights.items()}, "dp_world_size": 8},
        "deepspeed_ddp": {"module": {f"module.{key}": x for key, x in weights.items()}},
        "compiled": {"state_dict": {f"_orig_mod.{key}": x for key, x in weights.items()}},
    }
    for name, content in packings.items():
        assert same(read_weights(official(tmp_path / f"{name}.ckpt", content)), weights), name
    assert same(read_weights(official(tmp_path / "old.ckpt", {"state_dict": weights}, zipped=False)), weights)


def test_safetensors_whole_and_sharded_give_the_same_weights(tmp_path: Path, weights):
    write_safetensors(tmp_path / "one.safetensors", weights)
    assert same(load_file(tmp_path / "one.safetensors"), weights)
    assert same(read_weights(tmp_path / "one.safetensors"), weights)
    (tmp_path / "one.safetensors").rename(tmp_path / "mislabelled.ckpt")
    assert same(read_weights(tmp_path / "mislabelled.ckpt"), weights)

    folder = tmp_path / "sharded"
    folder.mkdir()
    names = list(weights)
    parts = {"model-1.safetensors": names[:2], "model-2.safetensors": names[2:]}
    for file, keys in parts.items():
        save_file({key: weights[key] for key in keys}, folder / file)
    assert same(read_weights(folder), weights)
    index = {"weight_map": {key: file for file, keys in parts.items() for key in keys}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert same(read_weights(folder), weights)
    assert same(read_weights(folder / "model.safetensors.index.json"), weights)
    assert [file.name for file in weight_files(folder)] == list(parts)
    (folder / "model-2.safetensors").unlink()
    with pytest.raises(UserError, match=r"model-2\.safetensors"):
        read_weights(folder)


def test_index_that_disagrees_with_its_shards_is_refused(tmp_path: Path, weights):
    save_file(weights, tmp_path / "a.safetensors")
    (tmp_path / "m.index.json").write_text(json.dumps({"weight_map": {"model.ghost": "a.safetensors"}}))
    with pytest.raises(UserError, match=r"disagree on 6 keys: ids, model\.a\.weight"):
        read_weights(tmp_path)
    (tmp_path / "n.index.json").write_text("{}")
    with pytest.raises(UserError, match=r"several checkpoints.*m\.index\.json.*n\.index\.json"):
        read_weights(tmp_path)


class Evil:
    def __reduce__(self):
        return os.system, ("touch pwned",)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_wants_to_run_code_is_refused_by_name(tmp_path: Path, weights, zipped: bool, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = official(tmp_path / "evil.ckpt", {"state_dict": weights, "callbacks": Evil()}, zipped)
    with pytest.raises(UserError, match=r"'(posix|nt)\.system'"):
        read_weights(path)
    assert not (tmp_path / "pwned").exists()


def test_an_unknown_class_is_refused_by_name(tmp_path: Path, weights):
    path = official(tmp_path / "x.ckpt", {"state_dict": weights, "config": Path("x")})
    with pytest.raises(UserError, match=r"'pathlib\..*PosixPath'"):
        read_weights(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.ckpt", b"", r"empty \(0 bytes\)"),
        ("a.safetensors", b"", r"empty \(0 bytes\)"),
        ("a.ckpt", b"\x89PNG\r\n\x1a\n" + bytes(99), "PNG image"),
        ("a.ckpt", b"<!DOCTYPE html><html></html>", "web page"),
        ("a.ckpt", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("a.ckpt", b"PK\x03\x04" + bytes(99), "cut short"),
        ("a.safetensors", b"\x89PNG\r\n\x1a\n" + bytes(99), "not a whole safetensors file"),
        ("a.ckpt", b"hello", "no known type"),
    ],
)
def test_what_is_no_checkpoint_is_named(tmp_path: Path, name: str, content: bytes, message: str):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_weights(tmp_path / name)


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_truncated_files_are_refused(tmp_path: Path, kind: str):
    path = tmp_path / ("x.safetensors" if kind == "safetensors" else "x.ckpt")
    tensors = {"a": torch.randn(1000), "b": torch.randn(1000)}
    if kind == "safetensors":
        write_safetensors(path, tensors)
    else:
        official(path, {"state_dict": tensors}, zipped=kind == "zip")
    whole = path.read_bytes()
    for part in (0.02, 0.5, 0.95):
        path.write_bytes(whole[: int(len(whole) * part)])
        with pytest.raises(UserError, match="cut short"):
            read_weights(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epoch": 3}, "1 of 1 entries are not named tensors: epoch"),
        ({"state_dict": {}}, "an empty dict, not a state dict"),
        ([1, 2], "a list, not a state dict"),
        ({"state_dict": {"a": torch.ones(1), "b": 3}}, "1 of 2 entries are not named tensors: b"),
    ],
)
def test_a_torch_file_without_weights_is_described(tmp_path: Path, content: object, message: str):
    with pytest.raises(UserError, match=message):
        read_weights(official(tmp_path / "x.ckpt", content))


def test_absent_paths_and_foreign_folders(tmp_path: Path):
    with pytest.raises(UserError, match=r"no checkpoint at .*nowhere\.ckpt"):
        read_weights(tmp_path / "nowhere.ckpt")
    with pytest.raises(UserError, match=r"without spec\.json"):
        read_weights(tmp_path)


def test_views_are_written_with_their_own_bytes_only(tmp_path: Path):
    base = torch.randn(100, 10)
    tensors = {"rows": base[3:5], "columns": base[:, 2], "again": base[3:5], "all": base, "none": base[:0]}
    apart = separate(tensors)
    assert same(apart, tensors)
    assert all(x.untyped_storage().nbytes() == x.nbytes for x in apart.values() if x.numel())
    assert apart["all"].data_ptr() == base.data_ptr()  # not copied
    assert apart["rows"].data_ptr() == base[3:5].data_ptr()  # not copied either, though its storage is its own
    write_checkpoint(tmp_path / "small.ckpt", {"rows": base[3:5], "columns": base[:, 2]})
    assert (tmp_path / "small.ckpt").stat().st_size < 3000  # of the 4000 bytes of the base, 480 are wanted
    write_safetensors(tmp_path / "x.safetensors", tensors)
    assert same(read_weights(tmp_path / "x.safetensors"), tensors)


@pytest.mark.skipif(os.name != "posix", reason="permissions as POSIX has them")
def test_written_weights_can_be_read_by_whom_the_umask_allows(tmp_path: Path):
    (tmp_path / "plain").touch()
    write_safetensors(tmp_path / "x.safetensors", {"a": torch.ones(1)})
    write_checkpoint(tmp_path / "x.ckpt", {"a": torch.ones(1)})
    assert len({file.stat().st_mode for file in tmp_path.iterdir()}) == 1


def test_sha256_of_a_file_and_of_a_folder(tmp_path: Path):
    (tmp_path / "abc").write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1
    assert sha256(tmp_path / "abc") == known
    assert sha256(tmp_path) == hashlib.sha256(f"{known}  abc\n".encode()).hexdigest()
    assert sha256_of({"abc": tmp_path / "abc"}) == sha256(tmp_path)


def test_non_finite_tensors_are_found_in_every_dtype():
    largest = torch.full((1000,), torch.finfo(torch.float32).max)  # the float32 sum overflows, the tensor is fine
    good = {"large": largest, "double": torch.full((9,), 1e308, dtype=torch.float64), "ids": torch.arange(3)}
    bad = {
        "nan": torch.tensor([1.0, float("nan")]).half(),
        "inf": torch.tensor([1.0, float("-inf")]).bfloat16(),
        "both": torch.tensor([float("inf"), float("-inf")]),
    }
    assert non_finite(good) == []
    assert non_finite(good | bad) == ["nan", "inf", "both"]
