"""The partition of a network: total, disjoint, and with the published sizes."""

import re

import pytest
import torch
from torch import nn

from perturb.errors import UserError
from perturb.models.partition import GROUPS, Partition
from perturb.models.videocrafter.keymap.unet import UNET_PREFIX, unet_official_to_ours
from perturb.models.videocrafter.published import SPECS

# Parameters (tensors) of θ_S, θ_T, conditioning and image branch, counted in the published models.
PUBLISHED = {
    "t2v_512_v1": [(863_860_164, 682), (278_575_232, 510), (2_050_560, 4), (0, 0)],
    "t2v_1024_v1": [(863_860_164, 682), (278_575_232, 510), (4_101_120, 8), (0, 0)],
    "i2v_512_v1": [(863_860_164, 682), (545_323_136, 794), (4_101_120, 8), (25_559_040, 32)],
    "t2v_512_v2": [(863_860_164, 682), (545_323_136, 794), (4_101_120, 8), (0, 0)],
    "modelscope": [(863_860_164, 682), (545_323_136, 794), (2_050_560, 4), (0, 0)],
    "t2v_turbo_v1": [(863_860_164, 682), (545_323_136, 794), (4_183_040, 9), (0, 0)],
    "t2v_turbo_v2": [(863_860_164, 682), (545_323_136, 794), (4_183_040, 9), (0, 0)],
    "t2v_turbo_v2_mg": [(863_860_164, 682), (545_323_136, 794), (4_469_760, 11), (0, 0)],
    "dynamicrafter_256": [(863_871_684, 682), (545_323_136, 794), (4_101_120, 8), (25_559_056, 48)],
    "dynamicrafter_512": [(863_871_684, 682), (545_323_136, 794), (4_101_120, 8), (25_559_040, 32)],
    "dynamicrafter_1024": [(863_871_684, 682), (545_323_136, 794), (4_101_120, 8), (25_559_040, 32)],
    "dynamicrafter_interpolation": [(863_871_684, 682), (545_323_136, 794), (4_101_120, 8), (25_559_040, 32)],
}
TABLES = {"t2v_512_v1": 68, "t2v_1024_v1": 68}

# The same groups by the official names: an independent check on the rule by classes.
TEMPORAL = re.compile(r"^init_attn\.|^middle_block\.2\.|^(input|output)_blocks\.\d+\.2\.|\.temopral_conv\.")
CONDITIONING = re.compile(r"^(time_embed|fps_embedding|time_cond_proj|motion_cond_proj|combine_proj)\.")
IMAGE = re.compile(r"\.attn2\.(to_[kv]_ip\.|alpha$)")
UPSAMPLE = re.compile(r"^output_blocks\.\d+\.\d+\.conv\.")


@pytest.fixture(scope="module")
def partitions() -> dict[str, Partition]:
    with torch.device("meta"):
        return {name: Partition.of(spec.build_unet()) for name, spec in SPECS.items()}


def by_official_name(key: str) -> str:
    if CONDITIONING.search(key):
        return "conditioning"
    if IMAGE.search(key):
        return "image"
    return "temporal" if TEMPORAL.search(key) and not UPSAMPLE.search(key) else "spatial"


@pytest.mark.parametrize("name", SPECS)
def test_published_counts(name: str, partitions: dict[str, Partition]) -> None:
    partition = partitions[name]
    assert [(partition.count(group), len(partition.names(group))) for group in GROUPS] == PUBLISHED[name]
    assert partition.counts() == dict(zip(GROUPS, (count for count, _ in PUBLISHED[name]), strict=True))


@pytest.mark.parametrize("name", SPECS)
def test_groups_agree_with_the_official_names(name: str, partitions: dict[str, Partition]) -> None:
    partition = partitions[name]
    for official, ours in unet_official_to_ours(SPECS[name].unet).items():
        assert ours in partition.names(by_official_name(official.removeprefix(UNET_PREFIX))), official


@pytest.mark.parametrize("name", SPECS)
def test_total_and_disjoint(name: str, partitions: dict[str, Partition]) -> None:
    with torch.device("meta"):
        expected = [parameter for parameter, _ in SPECS[name].build_unet().named_parameters()]
    assert sorted(n for group in GROUPS for n in partitions[name].names(group)) == sorted(expected)


@pytest.mark.parametrize("name", SPECS)
def test_layers_reach_everything_but_vectors_and_position_tables(name: str, partitions: dict[str, Partition]) -> None:
    partition = partitions[name]
    for group in GROUPS:
        weights = {f"{layer}.weight" for layer in partition.layers(group)}
        matrices = {parameter for parameter in partition.names(group) if len(partition.shapes[parameter]) >= 2}
        assert matrices - weights == set(partition.unreachable(group))
        assert weights <= matrices
    assert len(partition.unreachable("temporal")) == TABLES.get(name, 0)
    assert not partition.unreachable("spatial")


def test_nearest_tagged_block_decides() -> None:
    class Inner(nn.Module):
        group = "temporal"

        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(2, 3)
            self.table = nn.Parameter(torch.zeros(4, 2))

    class Outer(nn.Module):
        group = "spatial"

        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(2)
            self.inner = nn.Sequential(Inner())

    partition = Partition.of(Outer())
    assert partition.names("spatial") == ("norm.weight", "norm.bias")
    assert partition.names("temporal") == ("inner.0.table", "inner.0.linear.weight", "inner.0.linear.bias")
    assert partition.layers("temporal") == ("inner.0.linear",)
    assert partition.unreachable("temporal") == ("inner.0.table",)
    assert (partition.count("temporal"), partition.count("spatial"), partition.count("image")) == (8 + 9, 4, 0)


def test_mistakes_are_named() -> None:
    with pytest.raises(UserError, match="allowed: spatial, temporal, conditioning, image"):
        Partition.of(nn.Linear(2, 2))
    with torch.device("meta"):
        partition = Partition.of(SPECS["t2v_512_v1"].build_unet())
    for ask in (partition.names, partition.count, partition.layers, partition.unreachable):
        with pytest.raises(UserError, match="'space'"):
            ask("space")


class Mixed(nn.Module):
    """Two layers, and a vector of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.start = nn.Parameter(torch.zeros(2))
        self.attention, self.feed = nn.Linear(2, 3), nn.Conv1d(1, 1, 3, bias=False)


def test_rules_say_the_groups_of_classes_that_are_not_ours() -> None:
    partition = Partition.of(Mixed(), {Mixed: "conditioning", nn.Conv1d: "temporal", nn.Linear: "spatial"})
    assert partition.counts() == {"spatial": 9, "temporal": 3, "conditioning": 2, "image": 0}
    assert partition.layers("temporal") == ("feed",)


def test_patterns_make_groups_of_any_name() -> None:
    partition = Partition.named(Mixed(), {"mixing": "attention|feed", "rest": "^start$"})
    assert partition.names("mixing") == ("attention.weight", "attention.bias", "feed.weight")
    assert partition.layers("mixing") == ("attention", "feed")
    assert (partition.counts(), partition.layers("rest")) == ({"mixing": 12, "rest": 2}, ())


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        ({"mixing": "attention"}, r"exactly once:\n  start is in none of them\n  feed\.weight is in none of them$"),
        ({"all": "", "feed": "feed"}, r"exactly once:\n  feed\.weight is in all and feed$"),
        ({"all": "", "typo": "atention"}, r"partition\.groups\.typo is 'atention', which fits no parameter"),
        ({"all": "("}, r"partition\.groups\.all is '\(', which is no regular expression"),
    ],
)
def test_patterns_that_are_not_total_or_not_disjoint_are_named(patterns: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Partition.named(Mixed(), patterns)
