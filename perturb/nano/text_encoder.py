"""A text encoder that already knows what its captions say, as CLIP's does before a diffusion model hears of it.

From a random initialisation every word speaks equally softly, and the denoiser learns to listen to one label after the
other, in the order of their share of the loss. CLIP is trained to put the meaning of a sentence into its end token;
here that meaning is known exactly, so the encoder is trained to name the labels of a scene from the end token on.

Axis letters: b batch, l text tokens, d features.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from perturb.diffusion import sample_generator
from perturb.models.videocrafter.system import VideoSystem
from perturb.models.videocrafter.tokenizer import FileTokenizer
from perturb.progress import progress
from perturb.world.scenes import BACKGROUNDS, COLOURS, DIRECTIONS, PATHS, SHAPES, SPEEDS, scene

LABELS = {
    "colour": tuple(COLOURS),
    "shape": SHAPES,
    "direction": tuple(DIRECTIONS),
    "speed": tuple(SPEEDS),
    "path": PATHS,
    "background": tuple(BACKGROUNDS),
}
SCENES = 6000
"""Captions to learn from: as many as the clips that the twins see (conf/train/scale/nano_video.yaml)."""
BATCH = 64
LEARNING_RATE = 2e-3
WARMUP = 50
"""With 600 steps of these all labels of held-out captions are named right (perturb/weights/nano/README.md); no other
setting is on record."""


def teach_labels(system: VideoSystem, *, steps: int, seed: int) -> float:
    """Train the text encoder of ``system`` in place; returns the share of labels named right on held-out captions.

    Loss: the sum over labels of the cross-entropy of a linear head, averaged over the end token and the padding behind
    it (which hears the whole caption through the causal attention). The heads are thrown away.
    """
    captions, labels = _scenes(seed, SCENES, held_out=False)
    ids = system.tokenizer(captions)
    ended = _after_end(system, ids)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        heads = nn.ModuleDict({name: nn.Linear(system.spec.text.width, len(words)) for name, words in LABELS.items()})
    encoder = system.text_encoder.requires_grad_(True)
    optimiser = torch.optim.AdamW([*encoder.parameters(), *heads.parameters()], weight_decay=0.0)
    with progress("text encoder", steps) as advance:
        for step in range(steps):
            index = torch.randint(len(ids), (BATCH,), generator=sample_generator("text", seed, step))
            loss = _loss(encoder(ids[index]), ended[index], heads, labels[index])
            for group in optimiser.param_groups:
                group["lr"] = LEARNING_RATE * min(1.0, (step + 1) / WARMUP) * (1 - step / steps)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            advance(1)
    encoder.requires_grad_(False)
    return _accuracy(system, heads, seed)


def _scenes(seed: int, count: int, *, held_out: bool) -> tuple[list[str], Tensor]:
    """Captions, and the number of each label, ``b labels``."""
    scenes = [scene(seed, index, held_out=held_out) for index in range(count)]
    labels = [[words.index(getattr(here, name)) for name, words in LABELS.items()] for here in scenes]
    return [here.caption for here in scenes], torch.tensor(labels)


def _after_end(system: VideoSystem, ids: Tensor) -> Tensor:
    """Mask ``b l`` of the end token and the padding behind it."""
    assert isinstance(system.tokenizer, FileTokenizer)
    return (ids == system.tokenizer.end).cumsum(1) > 0


def _loss(features: Tensor, mask: Tensor, heads: nn.ModuleDict, labels: Tensor) -> Tensor:
    flat = features[mask]
    row = mask.nonzero()[:, 0]
    return sum((cross_entropy(heads[name](flat), labels[row, i]) for i, name in enumerate(LABELS)), flat.new_zeros(()))


@torch.no_grad()
def _accuracy(system: VideoSystem, heads: nn.ModuleDict, seed: int) -> float:
    captions, labels = _scenes(seed + 1, 256, held_out=True)
    ids = system.tokenizer(captions)
    at_end = system.text_encoder(ids)[torch.arange(len(ids)), _after_end(system, ids).int().argmax(1)]
    right = [heads[name](at_end).argmax(-1) == labels[:, i] for i, name in enumerate(LABELS)]
    return float(torch.stack(right).float().mean())
