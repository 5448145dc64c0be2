"""Downloads that break off, are resumed, checked, and go through a proxy; and pushes: against a server of our own."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hub import Hub, running
from huggingface_hub import constants

import perturb.fetch
import perturb.push
from perturb.errors import UserError
from perturb.metrics.fetch import chosen, fetch
from perturb.metrics.learned.dino import DINO
from perturb.metrics.learned.inception import INCEPTION
from perturb.metrics.learned.lpips import FILES
from perturb.metrics.learned.raft import RAFT
from perturb.metrics.learned.weights import WeightFile
from perturb.store.download import download, size_of
from perturb.store.paths import conf_dir, resolve

CONTENT = np.random.default_rng(0).bytes(3_000_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """The stand-in, as the one hub there is, with a cache of its own; no proxy."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with running() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", "hf_none")
        yield server


def test_a_download_that_breaks_off_is_gone_on_with(hub: Hub, tmp_path: Path) -> None:
    hub.files["big.pth"], hub.cut = CONTENT, 2_000_000
    target = tmp_path / "deep" / "big.pth"
    with pytest.raises(UserError, match=r"2,000,000 bytes are kept, and the same command goes on from there"):
        download(f"{hub.url}/big.pth", target, digest=DIGEST)
    assert not target.exists()
    assert download(f"{hub.url}/big.pth", target, digest=DIGEST[:8]) == DIGEST
    assert target.read_bytes() == CONTENT
    assert hub.seen == ["GET /big.pth", "GET /big.pth bytes=2000000-"]
    assert [path.name for path in target.parent.iterdir()] == ["big.pth"]


def test_what_came_whole_before_a_kill_is_not_sent_again(hub: Hub, tmp_path: Path) -> None:
    hub.files["big.pth"] = CONTENT
    (tmp_path / "big.pth.part").write_bytes(CONTENT)
    assert download(f"{hub.url}/big.pth", tmp_path / "big.pth", digest=DIGEST) == DIGEST


def test_another_hash_is_refused_and_not_kept(hub: Hub, tmp_path: Path) -> None:
    hub.files["big.pth"] = CONTENT
    with pytest.raises(UserError, match=f"has SHA-256 {DIGEST}, not 0123abcd: .* not kept"):
        download(f"{hub.url}/big.pth", tmp_path / "big.pth", digest="0123abcd")
    assert list(tmp_path.iterdir()) == []


def test_a_proxy_is_honoured(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", hub.url)
    hub.files["big.pth"] = CONTENT
    url = "http://weights.invalid/big.pth"
    assert size_of(url) == len(CONTENT)
    download(url, tmp_path / "big.pth", digest=DIGEST)
    assert hub.seen == [f"HEAD {url}", f"GET {url}"]
    monkeypatch.delenv("http_proxy")
    with pytest.raises(UserError, match=r"weights.invalid/big.pth: .*set HTTPS_PROXY"):
        size_of(url)


def test_weights_are_fetched_by_the_name_of_a_metric(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = WeightFile("big.pth", f"{hub.url}/big.pth", licence="MIT (nobody)", digest=DIGEST[:8])
    monkeypatch.setattr("perturb.metrics.fetch.weights", lambda: [own, DINO])
    hub.files["big.pth"] = CONTENT
    hub.files |= {
        f"{DINO.name}/{name}": name.encode() for name in (*DINO.files, "model.safetensors", "pytorch_model.bin")
    }
    fetch(["big.pth", "subject_consistency"], str(tmp_path))
    said = capsys.readouterr().out
    assert f"3.000 MB, licence: MIT (nobody), SHA-256 {DIGEST[:8]}… (no more of it is known)" in said
    assert f"{DINO.name} at 0123456789ab, licence: apache-2.0" in said
    assert (tmp_path / "big.pth").read_bytes() == CONTENT
    place = DINO.find(str(tmp_path))
    assert (place / "model.safetensors").read_bytes() == b"model.safetensors"
    assert not (place / "pytorch_model.bin").exists(), "one format is enough"
    hub.seen.clear()
    fetch(["big.pth", DINO.name], str(tmp_path))
    assert hub.seen == []
    assert "big.pth: present" in capsys.readouterr().out


def test_names_mean_weights_and_hashes_are_those_of_the_files() -> None:
    assert [one.name for one in chosen(["lpips_drift", "flow_score", RAFT.name])] == [FILES["alex"], RAFT.name]
    with pytest.raises(UserError, match=r"'motion_quality' has no weights to fetch; allowed: .*lpips_drift"):
        chosen(["motion_quality"])
    files = [one for one in (*chosen([*FILES.values()]), RAFT, INCEPTION) if isinstance(one, WeightFile)]
    for one in files:  # as torch hub has it, names end with the first digits of the hash
        assert one.digest.startswith(one.name.rpartition("-")[2].removesuffix(".pth"))
        assert one.licence


def test_a_model_says_licence_and_size_before_it_comes(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.files["VideoCrafter/VideoCrafter2/model.ckpt"], hub.licence = CONTENT, "cc-by-nc-4.0"
    place = ["videocrafter2", "-o", str(tmp_path / "here")]
    assert perturb.fetch.main([*place, "--plan"]) == 0
    plan = capsys.readouterr().out
    assert plan == (
        f"VideoCrafter/VideoCrafter2 at 0123456789ab, licence: cc-by-nc-4.0\n  model.ckpt: 3.0 MB, SHA-256 {DIGEST}\n"
    )
    assert not (tmp_path / "here").exists()
    assert perturb.fetch.main(place) == 0
    assert capsys.readouterr().out.startswith(plan)
    assert (tmp_path / "here" / "model.ckpt").read_bytes() == CONTENT
    hub.announced["model.ckpt"] = "0" * 64
    assert perturb.fetch.main(["videocrafter2", "-o", str(tmp_path / "other")]) == 2
    assert f"has SHA-256 {DIGEST}, not 0000" in capsys.readouterr().err
    assert not (tmp_path / "other" / "model.ckpt").exists()
    assert perturb.fetch.main(["videocrafter3"]) == 2
    assert "allowed: animatediff," in capsys.readouterr().err
    assert {f"{name}.yaml" for name in perturb.fetch.MODELS} <= {
        path.name for path in (conf_dir() / "system").iterdir()
    }


def test_adapters_are_pushed_with_a_card_and_come_back(hub: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "step_000300"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(CONTENT)
    assert perturb.push.push(folder, "me/delta").startswith(f"{hub.url}/me/delta/commit/")
    assert hub.files["me/delta/adapter_model.safetensors"] == CONTENT
    assert hub.files["me/delta/adapter_config.json"] == b"{}"
    assert hub.files["me/delta/README.md"].startswith(b"---\nlibrary_name: perturb\ntags: [video-diffusion, adapter]")


def test_a_model_is_pushed_with_all_it_points_to(hub: Hub, tmp_path: Path) -> None:
    nano = resolve("package:weights/nano")
    with pytest.raises(UserError, match=r"points to .*outside of .*push the folder that holds both"):
        perturb.push.push(nano / "full", "me/nano")
    for name in ("full/spec.json", "image/spec.json"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes((nano / name).read_bytes())
    perturb.push.push(tmp_path, "me/nano")
    assert json.loads(hub.files["me/nano/full/spec.json"])["spec"]["name"] == "nano"
    with pytest.raises(UserError, match=r"neither adapter_config.json nor a model with spec.json"):
        perturb.push.push(tmp_path / "none", "me/nano")


def test_a_training_is_pushed_without_the_folders_of_its_paths(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "spec.json").write_bytes(resolve("package:weights/nano/image/spec.json").read_bytes())
    said = {"init": "/home/me/secret/vc2.ckpt", "data": {"files": ["/data/customer/a.tar"], "steps": 3}}
    (tmp_path / "model" / "training.json").write_text(json.dumps(said))
    (tmp_path / "model" / ".notes").write_text("mine")
    perturb.push.push(tmp_path, "me/trained")
    kept = json.loads(hub.files["me/trained/model/training.json"])
    assert kept == {"init": "vc2.ckpt", "data": {"files": ["a.tar"], "steps": 3}}
    assert not any(".notes" in name for name in hub.files)
