"""Where weights are looked for, what is said when they are absent or wrong, and what identifies them."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from learned_files import into_hub_cache, scene, write_dino, write_head, write_trunk
from safetensors.torch import load_file

from perturb.errors import UserError
from perturb.metrics import Context, Metric, Unavailable, learned_metrics, score_clips
from perturb.metrics.learned import Learned, packaged_metrics
from perturb.metrics.learned.aesthetic import HEAD
from perturb.metrics.learned.dino import DINO, Dino
from perturb.metrics.learned.inception import INCEPTION, Inception
from perturb.metrics.learned.lpips import FILES, Lpips
from perturb.metrics.learned.raft import RAFT, Raft
from perturb.metrics.page import weights
from perturb.metrics.scoring.aggregates import AGGREGATES

CLIP = scene(0, prompt="a cat")
CONTEXT = Context({CLIP.sample: CLIP})


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty caches of torch and the hub, in a home folder of their own."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "torch" / "hub" / "checkpoints").mkdir(parents=True)
    return tmp_path


@pytest.fixture(scope="module")
def dino(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dino(tmp_path_factory.mktemp("weights"))


INSTALLED = {info.name for metric in packaged_metrics() for info in metric.infos}  # with their weights
APART = {"vbench_flicker", *(one.info.name for one in AGGREGATES), *INSTALLED}  # no weights of their own


def test_without_weights_nothing_is_a_number_and_every_reason_names_file_and_place(caches: Path) -> None:
    metrics = [metric for metric in learned_metrics(device="cpu") if metric.infos[0].name not in INSTALLED]
    rows = score_clips(metrics, [CLIP], CONTEXT)
    rows = [(info, value) for _, info, value in rows if info.name not in APART]
    assert len(rows) > 15
    for info, value in rows:
        assert (value.status, value.value) == ("unavailable", None), info.name
        assert str(caches) not in value.reason, "no home folder in what people share"
        if info.needs == ("a function of your own",):
            assert f"metrics.imported.{info.name}=" in value.reason
        else:
            assert "~/" in value.reason
            assert info.needs[0] in value.reason
            assert "https://" in value.reason
    assert not any(path.is_file() for path in caches.rglob("*")), "nothing is downloaded"


def test_identity_without_weights_is_unavailable() -> None:
    for metric in learned_metrics():
        if isinstance(metric, Learned) and metric.infos[0].name not in INSTALLED:
            with pytest.raises(Unavailable, match="not found: looked for"):
                metric.identity()


def test_a_named_folder_comes_before_the_cache_and_identity_is_the_content(caches: Path) -> None:
    cached, own = caches / "torch" / "hub" / "checkpoints" / HEAD.name, caches / "own"
    own.mkdir()
    write_head(cached.parent)
    assert HEAD.find(None) == HEAD.find(str(own)) == cached
    write_head(own, width=3)
    assert HEAD.find(str(own)) == own / HEAD.name
    write_trunk(own)
    identity = Lpips(weights=str(own)).identity()
    content = hashlib.sha256((own / FILES["alex"]).read_bytes()).hexdigest()
    assert identity == {"version": 1, "weights": {FILES["alex"]: content}}
    (own / FILES["alex"]).write_bytes(b"other")
    assert Lpips(weights=str(own)).identity() != identity


def test_the_hubs_cache_a_folder_and_the_older_format_give_the_same_number(caches: Path, dino: Path) -> None:
    expected = Dino(weights=str(dino.parents[1]))([CLIP], CONTEXT)
    snapshot = into_hub_cache(dino, caches / "hub", DINO.name)
    assert DINO.find(None) == snapshot
    assert Dino()([CLIP], CONTEXT) == expected
    old = shutil.copytree(dino, caches / "own" / DINO.name)
    state = load_file(old / "model.safetensors")
    assert "encoder.layer.0.attention.attention.query.weight" in state, "the published names"
    torch.save(state, old / "pytorch_model.bin")
    (old / "model.safetensors").unlink()
    assert Dino(weights=str(caches / "own"))([CLIP], CONTEXT) == expected


def test_an_incomplete_repository_says_what_it_lacks(caches: Path, dino: Path) -> None:
    place = shutil.copytree(dino, caches / "own" / DINO.name)
    (place / "preprocessor_config.json").unlink()
    (place / "model.safetensors").unlink()
    with pytest.raises(Unavailable, match=r"it lacks preprocessor_config.json, model.safetensors or pytorch_model.bin"):
        DINO.find(str(caches / "own"))


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _other_shape(path: Path) -> None:
    torch.save({key: value[..., :1] for key, value in torch.load(path).items()}, path)


def _one_key_less(path: Path) -> None:
    state = torch.load(path)
    torch.save({key: state[key] for key in sorted(state)[1:]}, path)


def _pickled_code(path: Path) -> None:
    torch.save({"weight": Unavailable}, path)


@pytest.mark.parametrize("spoil", [_truncate, _other_shape, _one_key_less, _pickled_code])
@pytest.mark.parametrize("kind", [Lpips, Raft, Inception])
def test_a_wrong_file_is_an_error_that_names_it(
    caches: Path, kind: type[Lpips] | type[Raft] | type[Inception], spoil: Callable[[Path], None]
) -> None:
    metric = kind(weights=str(caches))
    path = caches / metric.weights[0].name
    tensors = {"features.0.weight": torch.zeros(64, 3, 11, 11), "features.0.bias": torch.zeros(64)}
    torch.save(tensors, path)
    spoil(path)
    with pytest.raises(UserError, match=f"~/{path.name} cannot be used .*get {path.name} from https://"):
        metric.network()
    rows = score_clips([metric], [CLIP], CONTEXT)
    assert {value.status for _, info, value in rows if info in metric.infos} == {"failed"}


def test_a_parameter_that_is_missing_in_a_snapshot_is_an_error(caches: Path, dino: Path) -> None:
    """transformers alone would go on with a random one."""
    from safetensors.torch import save_file

    place = shutil.copytree(dino, caches / "own" / DINO.name) / "model.safetensors"
    state = load_file(place)
    save_file({key: value for key, value in state.items() if key != "layernorm.weight"}, place, {"format": "pt"})
    metric = Dino(weights=str(caches / "own"))
    with pytest.raises(UserError, match=r"layernorm\.weight"):
        metric.network()
    _truncate(place)
    with pytest.raises(UserError, match="cannot be used"):
        metric.network()


def test_every_need_is_a_weight_with_a_source() -> None:
    known = {one.name: one for one in weights()}
    assert {RAFT.name, INCEPTION.name, DINO.name, *FILES.values()} <= set(known)
    for metric in learned_metrics():
        if isinstance(metric, Learned):
            assert all(set(info.needs) <= set(known) for info in metric.infos)
            assert isinstance(metric, Metric) != hasattr(metric, "combine")
    assert all(one.url.startswith("https://") for one in known.values())
