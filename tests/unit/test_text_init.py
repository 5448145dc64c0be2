"""The text encoder of the embedded world learns to name what a caption says before a denoiser listens to it."""

import torch

from perturb.models.videocrafter.nano import NANO
from perturb.models.videocrafter.system import VideoSystem, build_system
from perturb.models.videocrafter.tokenizer import FileTokenizer
from perturb.nano.text_encoder import LABELS, teach_labels
from perturb.world import WORDS


def fresh_system() -> VideoSystem:
    torch.manual_seed(0)
    return build_system(NANO, FileTokenizer.from_words(WORDS, NANO.text.tokens))


def test_labels_of_unseen_captions_are_named_after_teaching_and_guessed_before() -> None:
    chance = sum(1 / len(words) for words in LABELS.values()) / len(LABELS)
    assert abs(teach_labels(fresh_system(), steps=0, seed=3) - chance) < 0.15
    assert teach_labels(fresh_system(), steps=120, seed=3) > chance + 0.3


def test_teaching_is_deterministic_and_leaves_the_global_generator_alone() -> None:
    weights = []
    for _ in range(2):
        system = fresh_system()
        state = torch.get_rng_state()
        teach_labels(system, steps=3, seed=3)
        assert torch.equal(torch.get_rng_state(), state)
        assert not any(p.requires_grad for p in system.text_encoder.parameters())
        weights.append(torch.cat([p.flatten() for p in system.text_encoder.parameters()]))
    assert torch.equal(*weights)
    assert not torch.equal(weights[0], torch.cat([p.flatten() for p in fresh_system().text_encoder.parameters()]))
