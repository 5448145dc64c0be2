"""Systems saved as folders of ours: the same weights back, shared parts, nothing lost, and what is wrong is named."""

import json
from pathlib import Path

import pytest
import torch
from checkpoint_files import as_first_published, as_published, equal, official, random_state, written_back

from perturb.errors import UserError
from perturb.models.videocrafter.checkpoint import load_system, save_system
from perturb.models.videocrafter.spec import ModelSpec
from perturb.models.videocrafter.system import VideoSystem


def test_saved_folder_gives_the_same_system_back(tmp_path: Path, tiny_system: VideoSystem):
    folder = save_system(tiny_system, tmp_path / "tiny")
    again = load_system(folder)
    assert again.spec == tiny_system.spec
    for name, module in tiny_system.modules().items():
        assert equal(module.state_dict(), again.modules()[name].state_dict()), name
    prompt = ["a red circle moving left slowly on a gray background"]
    assert torch.equal(again.tokenizer(prompt), tiny_system.tokenizer(prompt))
    assert again.provenance["format"] == "folder"
    # The hash is that of the content: another path, the same hash; another weight, another hash.
    assert load_system(folder.rename(tmp_path / "moved")).provenance["sha256"] == again.provenance["sha256"]
    with torch.no_grad():
        next(tiny_system.unet.parameters()).add_(1)
    assert load_system(save_system(tiny_system, folder)).provenance["sha256"] != again.provenance["sha256"]


def test_folders_can_share_parts(tmp_path: Path, tiny_system: VideoSystem):
    save_system(tiny_system, tmp_path / "shared")
    shared = {"vae": "../shared/vae.safetensors", "tokenizer": "../shared/tokenizer.json"}
    save_system(tiny_system, tmp_path / "twin", shared=shared)
    assert sorted(file.name for file in (tmp_path / "twin").iterdir()) == [
        "spec.json",
        "text_encoder.safetensors",
        "unet.safetensors",
    ]
    assert equal(load_system(tmp_path / "twin").vae.state_dict(), tiny_system.vae.state_dict())
    with pytest.raises(UserError, match=r"shared vae .* does not exist: \.\./nowhere"):
        save_system(tiny_system, tmp_path / "third", shared={"vae": "../nowhere.safetensors"})
    assert not (tmp_path / "third").exists()


def test_an_official_model_saved_as_a_folder_keeps_what_it_does_not_read(tmp_path: Path, tiny_spec: ModelSpec):
    spec = as_published(tiny_spec)
    state = random_state(spec)
    system = load_system(official(tmp_path / "model.ckpt", state), spec)
    assert equal(written_back(load_system(save_system(system, tmp_path / "folder"))), state)


def test_existing_folders_are_only_replaced_on_demand_and_survive_a_failure(
    tmp_path: Path, tiny_system: VideoSystem, monkeypatch
):
    folder = save_system(tiny_system, tmp_path / "tiny")
    with pytest.raises(UserError, match="exists"):
        save_system(tiny_system, folder)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("perturb.models.videocrafter.folder.write_safetensors", full)
        with pytest.raises(OSError, match="No space left"):
            save_system(tiny_system, folder, overwrite=True)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert [file.name for file in tmp_path.iterdir()] == ["tiny"]
    save_system(tiny_system, folder, overwrite=True)
    assert [file.name for file in tmp_path.iterdir()] == ["tiny"]


def test_a_system_with_something_attached_is_not_saved(tmp_path: Path, tiny_system: VideoSystem):
    tiny_system.unet.adapter = torch.nn.Linear(2, 2)
    with pytest.raises(UserError, match="detach perturbations"):
        save_system(tiny_system, tmp_path / "tiny")
    assert list(tmp_path.iterdir()) == []


def test_what_is_wrong_in_a_folder_is_named(tmp_path: Path, tiny_system: VideoSystem):
    folder = save_system(tiny_system, tmp_path / "tiny")
    spec_file = folder / "spec.json"
    good = json.loads(spec_file.read_text())

    def refused(content: object, message: str) -> None:
        spec_file.write_text(content if isinstance(content, str) else json.dumps(content))
        with pytest.raises(UserError, match=message):
            load_system(folder)

    refused("{", "not valid JSON")
    refused([1], "expected a JSON object, got list")
    refused(good | {"format": 2}, "format 2 is unknown")
    refused({"format": 1}, r"spec\.name, .*: missing")
    refused(good | {"files": {"vea": "x"}}, "got {'vea': 'x'}")
    refused(good | {"files": {"vae": "../x.safetensors"}}, r"lacks: vae \(.*x\.safetensors\)")
    wider = good["spec"] | {"unet": good["spec"]["unet"] | {"model_channels": 64}}
    refused(good | {"spec": wider}, r"do not fit its own spec\.json:\n.*of another shape .*in unet")
    spec_file.write_text(json.dumps(good))
    with pytest.raises(UserError, match="holds tiny, not tiny_v1"):
        load_system(folder, as_first_published(tiny_system.spec))
    (folder / "unet.safetensors").write_bytes((folder / "unet.safetensors").read_bytes()[:-7])
    with pytest.raises(UserError, match=r"unet\.safetensors is not a whole safetensors file"):
        load_system(folder)
