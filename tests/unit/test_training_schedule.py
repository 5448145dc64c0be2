"""What a training computes from the step alone, by hand: learning rate, stages, division, average, masks."""

import math

import pytest
import torch
from torch import Tensor, nn

from perturb.errors import UserError
from perturb.loop.config import StageConfig, check_division
from perturb.loop.dropout import PlacedDropout, place_dropouts, restore_dropouts
from perturb.loop.ema import Ema
from perturb.loop.schedule import learning_rate_factor, locate, shares
from tests.unit.training_case import loop


def test_learning_rate_warms_up_and_follows_the_cosine():
    stages = [StageConfig(steps=100, batch_size=1)]
    config = loop(warmup_steps=10)
    assert learning_rate_factor(0, config, stages) == pytest.approx(0.1)
    assert learning_rate_factor(4, config, stages) == pytest.approx(0.5 * 0.5 * (1 + math.cos(math.pi * 0.04)))
    assert learning_rate_factor(50, config, stages) == pytest.approx(0.5)
    assert learning_rate_factor(50, loop(warmup_steps=100, schedule="constant"), stages) == pytest.approx(0.51)


def test_a_stage_can_have_a_rate_of_its_own():
    stages = [StageConfig(steps=3, batch_size=8), StageConfig(steps=2, batch_size=4, learning_rate=0.5)]
    config = loop(learning_rate=2.0, warmup_steps=0, schedule="constant")
    assert [learning_rate_factor(step, config, stages) for step in range(5)] == [1, 1, 1, 0.25, 0.25]
    place = locate(stages, 4)
    assert (place.number, place.step, place.stage.batch_size) == (1, 1, 4)


@pytest.mark.parametrize(("processes", "accumulation"), [(1, 1), (2, 1), (1, 4), (2, 3)])
def test_every_place_of_a_batch_is_taken_once_and_in_order(processes: int, accumulation: int):
    parts = [shares(12, rank=r, processes=processes, accumulation=accumulation) for r in range(processes)]
    assert [place for rank in parts for micro in rank for place in micro] == list(range(12))


def test_a_batch_that_cannot_be_shared_is_refused():
    with pytest.raises(UserError, match=r"stages\[1\]\.batch_size is 6.*multiples of 4"):
        check_division([StageConfig(steps=1, batch_size=8), StageConfig(steps=1, batch_size=6)], 2, 2)


def test_average_by_hand():
    parameter = nn.Parameter(torch.tensor([0.0]))
    ema = Ema({"w": parameter}, decay=0.9)
    parameter.data.fill_(1.0)
    ema.update(0)  # decay min(0.9, 1/10) = 0.1
    assert ema.shadow["w"].item() == pytest.approx(0.9)
    ema.update(1000)
    assert ema.shadow["w"].item() == pytest.approx(0.9 * 0.9 + 0.1)
    with ema.applied():
        assert parameter.item() == ema.shadow["w"].item()
    assert parameter.item() == 1.0


def test_placed_masks_belong_to_samples_and_keep_the_mean():
    layer = PlacedDropout(0.25, "a.b").train()
    x = torch.ones(6, 4, 500)

    def masks(step: int, places: range) -> Tensor:
        layer.seed, layer.step, layer.places = 1, step, places
        return layer(x[places.start : places.stop])

    whole = masks(7, range(6))
    assert torch.equal(torch.cat([masks(7, range(2)), masks(7, range(2, 6))]), whole)
    assert not torch.equal(masks(8, range(6)), whole)
    assert whole.unique().tolist() == pytest.approx([0, 4 / 3])
    assert whole.mean().item() == pytest.approx(1, abs=0.02)
    assert torch.equal(layer.eval()(x), x)


def test_dropouts_are_replaced_and_put_back():
    network = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1), nn.Sequential(nn.Dropout(0.0), nn.Dropout(0.3))).train()
    assert [layer.p for layer in place_dropouts(network)] == [0.1, 0.3]
    restore_dropouts(network)
    found = [(type(m), m.p, m.training) for m in network.modules() if isinstance(m, (nn.Dropout, PlacedDropout))]
    assert found == [(nn.Dropout, 0.1, True), (nn.Dropout, 0.0, True), (nn.Dropout, 0.3, True)]
