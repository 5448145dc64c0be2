"""Reading configurations: what is accepted, what is refused and with which words; what makes a run another run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from perturb.cli.command import check_paths
from perturb.cli.identity import content_digest, identity
from perturb.errors import UserError
from perturb.structured import build, read


@dataclass(frozen=True)
class Inner:
    rate: float
    kind: Literal["a", "b"] = "a"


@dataclass(frozen=True)
class Outer:
    inner: Inner
    steps: tuple[int, ...] = ()
    limit: int | None = None


class Thing:
    def __init__(self, size: int, colour: str = "red") -> None:
        if size < 1:
            raise UserError(f"size is {size}")
        self.size, self.colour = size, colour


THING = f"{__name__}.Thing"


def test_values_are_converted_where_that_is_harmless():
    assert read(Outer, {"inner": {"rate": 1}, "steps": [1, 2]}) == Outer(Inner(1.0), (1, 2), None)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"inner": {"rat": 1}},
            r"inner\.rat: unknown key\. Did you mean 'inner\.rate'\? Allowed under inner: kind, rate",
        ),
        ({"inner": {}}, r"inner\.rate: missing"),
        ({"inner": {"rate": "x"}}, r"inner\.rate is 'x'; allowed: a number"),
        ({"inner": {"rate": True}}, r"inner\.rate is True; allowed: a number"),
        ({"inner": {"rate": 1, "kind": "c"}}, r"inner\.kind is 'c'; allowed: a, b"),
        ({"inner": {"rate": 1}, "steps": [1, 2.5]}, r"steps\[1\] is 2\.5; allowed: a whole number"),
        ({"inner": {"rate": 1}, "limit": "many"}, r"limit is 'many'; allowed: a whole number or null"),
        ({"inner": 3}, "inner: expected a mapping, got 3"),
    ],
)
def test_mistakes_name_key_given_and_allowed(data: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        read(Outer, data)


def test_seams_build_and_refuse():
    assert build("thing", {"_target_": THING, "size": 2}).colour == "red"
    for seam, message in (
        ({"_target_": THING, "size": 2, "color": "x"}, r"thing\.color: unknown key. Did you mean 'thing\.colour'"),
        ({"_target_": THING}, r"thing\.size: missing"),
        ({"_target_": THING, "size": 0}, "^size is 0$"),
        ({"_target_": "nowhere.Thing"}, "cannot be imported"),
        ({"size": 1}, "lacks _target_"),
    ):
        with pytest.raises(UserError, match=message):
            build("thing", seam)


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "unet.safetensors").write_bytes(b"weights")
    (tmp_path / "prompts.txt").write_text("a\n")
    return {
        "name": "n",
        "runs_dir": "runs",
        "plan": False,
        "image": None,
        "system": {"checkpoint": str(tmp_path / "model"), "device": "cpu"},
        "sample": {"playback_fps": 8, "batch_size": 2},
        "prompts": {"file": str(tmp_path / "prompts.txt")},
        "images": {"count": 2},
    }


def test_identity_is_content_not_place(config: dict[str, Any], tmp_path: Path):
    before = identity(config)
    (tmp_path / "model").rename(tmp_path / "moved")
    config["system"] |= {"checkpoint": str(tmp_path / "moved"), "device": "cuda"}
    config |= {"runs_dir": "elsewhere", "name": "m"}
    config["sample"]["playback_fps"] = 24
    assert identity(config) == before
    config["partition"] = {"groups": None}  # as the model has it
    assert identity(config) == before
    config["partition"] = {"groups": {"all": ""}}
    assert identity(config) != before
    config["partition"] = {"groups": None}
    config["sample"]["quantise"] = None
    assert identity(config) == before
    for key, value in {"batch_size": 3, "quantise": "int8"}.items():
        assert identity(config | {"sample": config["sample"] | {key: value}}) != before


@pytest.mark.parametrize("file", ["model/unet.safetensors", "prompts.txt"])
def test_identity_changes_with_the_content_of_files(config: dict[str, Any], tmp_path: Path, file: str):
    before = identity(config)
    (tmp_path / file).write_bytes(b"other")
    assert identity(config) != before


def test_parts_shared_by_a_checkpoint_folder_count(tmp_path: Path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "spec.json").write_text('{"files": {"vae": "../shared.safetensors"}}')
    (tmp_path / "shared.safetensors").write_bytes(b"1")
    first = content_digest(tmp_path / "a")
    assert content_digest(tmp_path / "b") == first
    (tmp_path / "shared.safetensors").write_bytes(b"2")
    assert content_digest(tmp_path / "a") != first


def test_identity_follows_shards_and_caption_tables(config: dict[str, Any], tmp_path: Path):
    (tmp_path / "model" / "model.safetensors.index.json").write_text("{}")
    (tmp_path / "captions.csv").write_text("file,caption\na.png,a\n")
    config["system"]["checkpoint"] = str(tmp_path / "model" / "model.safetensors.index.json")
    config["images"] = {"folder": str(tmp_path / "model"), "captions": str(tmp_path / "captions.csv")}
    seen = [identity(config)]
    (tmp_path / "captions.csv").write_text("file,caption\na.png,b\n")
    seen.append(identity(config))
    (tmp_path / "model" / "unet.safetensors").write_bytes(b"WEIGHTS")  # of the same size
    seen.append(identity(config))
    assert seen[0] != seen[1] != seen[2]
    config["images"]["captions"] = "none"
    assert identity(config)["images"]["captions"] == "none"


def test_all_missing_paths_are_named_at_once(config: dict[str, Any], tmp_path: Path):
    check_paths(config)
    config["system"]["checkpoint"] = "???"
    config["prompts"]["file"] = str(tmp_path / "none.txt")
    with pytest.raises(UserError, match=r"(?s)system\.checkpoint=….*prompts\.file=.*none\.txt  does not exist"):
        check_paths(config)
