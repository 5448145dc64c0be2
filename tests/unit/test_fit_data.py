"""What a fitting step sees: pure functions of (seed, step), whole epochs, the two ways a still becomes a video."""

from dataclasses import replace

import pytest
import torch
from fit_stills import SMALL, Stills, whole

from perturb.models.videocrafter.spec import ImageSpec, ModelSpec, ResamplerSpec
from perturb.models.videocrafter.system import VideoSystem, build_system
from perturb.models.videocrafter.tokenizer import FileTokenizer
from perturb.study.fit_data import FitData
from perturb.world.scenes import WORDS


def test_a_batch_is_a_function_of_seed_and_step_alone(tiny_system: VideoSystem) -> None:
    first = FitData(tiny_system, Stills(), SMALL)
    batches = [whole(first, step) for step in range(4)]
    late = whole(FitData(tiny_system, Stills(), replace(SMALL, cache_latents=False)), 3)
    for name in ("x0", "t", "noise"):
        assert torch.equal(getattr(late, name), getattr(batches[3], name))
    assert torch.equal(late.cond.text, batches[3].cond.text)
    assert not torch.equal(batches[0].noise, batches[1].noise)
    assert not torch.equal(whole(FitData(tiny_system, Stills(), replace(SMALL, seed=1)), 3).noise, late.noise)


def test_the_parts_of_a_batch_are_those_of_the_whole(tiny_system: VideoSystem) -> None:
    data = FitData(tiny_system, Stills(), replace(SMALL, batch_size=4))
    (first,), (second,) = (data.inputs(3, places) for places in (range(1), range(1, 4)))
    undivided = whole(FitData(tiny_system, Stills(), replace(SMALL, batch_size=4)), 3)
    for name in ("x0", "t", "noise"):
        assert torch.equal(torch.cat([getattr(first, name), getattr(second, name)]), getattr(undivided, name))
    assert torch.equal(torch.cat([first.cond.text, second.cond.text]), undivided.cond.text)


def test_every_image_comes_once_in_each_epoch(tiny_system: VideoSystem) -> None:
    images = Stills()
    data = FitData(tiny_system, images, replace(SMALL, batch_size=5, cache_latents=False))
    for step in range(3):
        whole(data, step)
    epochs = [images.loaded[i : i + 5] for i in (0, 5, 10)]
    assert [sorted(epoch) for epoch in epochs] == [[0, 1, 2, 3, 4]] * 3
    assert len({tuple(epoch) for epoch in epochs}) > 1
    cached = Stills()
    data = FitData(tiny_system, cached, replace(SMALL, batch_size=5))
    for step in range(3):
        whole(data, step)
    assert sorted(cached.loaded) == [0, 1, 2, 3, 4]


def test_one_frame_or_a_repeated_still(tiny_system: VideoSystem) -> None:
    single = whole(FitData(tiny_system, Stills(), SMALL), 0)
    assert single.x0.shape == (2, 4, 1, 4, 4)
    repeated = whole(FitData(tiny_system, Stills("repeat"), replace(SMALL, frames=3, fps=5)), 0)
    assert repeated.x0.shape == (2, 4, 3, 4, 4)
    assert torch.equal(repeated.x0, single.x0.expand(-1, -1, 3, -1, -1))
    assert not torch.equal(repeated.noise[:, :, 0], repeated.noise[:, :, 1])
    assert (single.cond.fps.tolist(), repeated.cond.fps.tolist()) == ([8, 8], [5, 5])
    assert whole(FitData(tiny_system, Stills("repeat"), SMALL), 0).x0.shape[2] == tiny_system.spec.sampling.frames


def test_latents_are_draws_from_the_scaled_posterior(tiny_system: VideoSystem) -> None:
    images = Stills()
    data = FitData(tiny_system, images, replace(SMALL, batch_size=400))
    x0 = whole(data, 0).x0[[i for i in range(400) if data.order[i] == 0]]  # 80 draws of one image
    mean, std = tiny_system.posterior(images.load(0, 32, 32)[None, :, None])
    scale = tiny_system.spec.vae.scale_factor
    torch.testing.assert_close(x0.mean(0), scale * mean[0], atol=5 * scale * float(std.max()) / 80**0.5, rtol=0)
    torch.testing.assert_close(x0.std(0).mean(), scale * std.mean(), atol=0, rtol=0.05)


@pytest.mark.parametrize(("dropout", "expected"), [(0.0, 0), (1.0, 64), (0.25, 16)])
def test_text_is_dropped_at_the_given_rate(tiny_system: VideoSystem, dropout: float, expected: int) -> None:
    data = FitData(tiny_system, Stills(), replace(SMALL, batch_size=64, text_dropout=dropout))
    text = whole(data, 0).cond.text
    empty = tiny_system.embed([""])[0]
    dropped = sum(torch.equal(row, empty) for row in text)
    assert dropped == pytest.approx(expected, abs=0 if dropout in (0.0, 1.0) else 8)
    kept = [i for i in range(64) if not torch.equal(text[i], empty)]
    for i in kept[:5]:
        assert torch.equal(text[i], tiny_system.embed([Stills.captions[data.order[i]]])[0])


def test_image_models_see_the_still_itself_or_with_the_empty_prompt_none(tiny_spec: ModelSpec) -> None:
    projector = ResamplerSpec(
        dim=32, depth=1, head_dim=16, heads=2, num_queries=4, embedding_dim=32, output_dim=tiny_spec.unet.context_dim
    )
    image = ImageSpec(
        width=32, layers=1, head_width=16, patch_size=56, embed_dim=32, text_width=8, vocab_size=9, projector=projector
    )
    spec = replace(tiny_spec, unet=replace(tiny_spec.unet, image_attention=True), image=image)
    system = build_system(spec, tokenizer=FileTokenizer.from_words(WORDS, spec.text.tokens))
    data = FitData(system, Stills(), replace(SMALL, batch_size=8, text_dropout=0.5))
    batch = whole(data, 0)
    assert batch.cond.image is not None
    empty, null = system.embed([""])[0], system.null_image_embedding()[0]
    dropped = [torch.equal(text, empty) for text in batch.cond.text]
    assert 0 < sum(dropped) < 8
    for place, tokens in enumerate(batch.cond.image):
        still = Stills().load(data.order[place], 32, 32)
        torch.testing.assert_close(tokens, null if dropped[place] else system.embed_image(still[None])[0])
    assert system.denoise(batch.x0, batch.t, batch.cond).isfinite().all()
