"""Which prompts the oracle judges."""

from collections import Counter

import pytest

from perturb.errors import UserError
from perturb.nano.oracle_report import held_out_scenes
from perturb.world.scenes import held_out_captions


def test_prompts_are_held_out_different_and_even_over_the_directions():
    scenes = held_out_scenes(64)
    assert len({here.caption for here in scenes}) == 64
    assert all(here.held_out for here in scenes)
    assert set(Counter(here.direction for here in scenes).values()) == {16}


def test_there_are_128_prompts_and_no_more_than_held_out_captions():
    assert len({here.caption for here in held_out_scenes(128)}) == 128
    everything = len(held_out_captions())
    assert {here.caption for here in held_out_scenes(everything)} == held_out_captions()
    with pytest.raises(UserError, match=rf"oracle is {everything + 1}; allowed: up to {everything}"):
        held_out_scenes(everything + 1)
