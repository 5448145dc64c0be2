"""Every layer has one place; the places of the published network are those that its classes say."""

from collections import Counter

import pytest
import torch

from perturb.models.partition import Partition
from perturb.models.videocrafter.nano import NANO
from perturb.models.videocrafter.published import get_spec
from perturb.models.videocrafter.system import VideoSystem
from perturb.perturbation.anatomy import BLOCKS, ROLES, anatomy
from perturb.perturbation.scaled import in_part

KINDS = ("convolution", "attention", "feed_forward", "other")


@pytest.mark.parametrize("name", ["nano", "t2v_512_v2", "i2v_512_v1"])
def test_blocks_and_kinds_each_divide_all_layers(name: str):
    with torch.device("meta"):
        unet = (NANO if name == "nano" else get_spec(name)).build_unet()
    places, partition = anatomy(unet), Partition.of(unet)
    assert sorted(places) == sorted(layer for group in partition.modules.values() for layer in group)
    for names in (BLOCKS, KINDS, ROLES):
        for place in places.values():
            assert sum(in_part(place.names, name) for name in names) == 1
    for place in places.values():
        assert in_part(place.names, "all")
        assert not in_part(place.names, "none")
        assert in_part(place.names, f"{place.block} {place.kind}")
    shipped = [f"{block} {kind}" for block in BLOCKS[1:] for kind in KINDS]
    for group in ("spatial", "temporal"):  # what conf/perturbation/ablation.yaml asks for is there in both
        for part in (*BLOCKS, *KINDS, *shipped):
            assert any(in_part(places[layer].names, part) for layer in partition.layers(group)), (group, part)


def test_the_places_of_videocrafter2():
    with torch.device("meta"):
        unet = get_spec("t2v_512_v2").build_unet()
    places = anatomy(unet)
    assert Counter(place.level for place in places.values() if place.role == "query") == {
        # by hand: two stages on each of three attending levels, one in the middle, three on the way up, none at the
        # deepest level; a stage has two spatial and two temporal attentions, init_attention two
        "down.0": 8, "down.1": 8, "down.2": 8, "middle": 4, "up.2": 12, "up.1": 12, "up.0": 12, "outer": 2,
    }  # fmt: skip
    stage = "up.3.stages.2"  # the last on the way up: the finest level
    expected = {
        "conv_in": ("outer", "outer", "convolution", "convolution"),
        "fps_embedding.mix": ("outer", "outer", "embedding", "other"),
        "init_attention.project_in": ("outer", "outer", "projection", "other"),
        "down.0.resample.conv": ("down", "down.0", "convolution", "convolution"),
        "middle.stage.temporal.blocks.0.attention_2.out": ("middle", "middle", "out", "attention"),
        "middle.resblock.temporal.layers.3.conv": ("middle", "middle", "convolution", "convolution"),
        f"{stage}.resblock.embedding": ("up", "up.0", "embedding", "other"),
        f"{stage}.resblock.skip": ("up", "up.0", "convolution", "convolution"),
        f"{stage}.spatial.blocks.0.cross_attention.value": ("up", "up.0", "value", "attention"),
        f"{stage}.spatial.blocks.0.feed_forward.expand": ("up", "up.0", "feed_forward", "feed_forward"),
        f"{stage}.spatial.project_out": ("up", "up.0", "projection", "other"),
    }
    for layer, wanted in expected.items():
        place = places[layer]
        assert (place.block, place.level, place.role, place.kind) == wanted, layer


def test_the_image_branch_is_attention():
    with torch.device("meta"):
        unet = get_spec("i2v_512_v1").build_unet()
    places = anatomy(unet)
    assert {places[layer].role for layer in Partition.of(unet).layers("image")} == {"key", "value"}


def test_a_tiny_network(tiny_system: VideoSystem):
    assert {place.level for place in anatomy(tiny_system.unet).values()} == {
        "outer", "down.0", "down.1", "middle", "up.0", "up.1",
    }  # fmt: skip
