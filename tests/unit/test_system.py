"""The complete system on a tiny model: what goes in and out, and what it refuses."""

import dataclasses
from pathlib import Path

import pytest
import torch

from perturb.diffusion import Conditioning, DDIMSampler, draw, sample_generator
from perturb.errors import UserError
from perturb.models.base import to_uint8
from perturb.models.videocrafter.preprocess import CLIP_MEAN, CLIP_STD, preprocess_image
from perturb.models.videocrafter.spec import ImageSpec, ModelSpec, ResamplerSpec
from perturb.models.videocrafter.system import VideoSystem, build_system
from perturb.models.videocrafter.tokenizer import ClipTokenizer, FileTokenizer
from perturb.world.scenes import WORDS

PROMPTS = ["a red circle moving left slowly on a gray background", "a blue star moving up fast on a black background"]


def sampled(system: VideoSystem, which: list[int]) -> torch.Tensor:
    """Latents of the prompts ``which``, each from its own noise."""
    x_T = draw((4, 4, 4, 4), [sample_generator("x_T", i) for i in which])
    cond = system.conditioning([PROMPTS[i] for i in which], 8)
    generators = [sample_generator("z", i) for i in which]
    sampler = DDIMSampler(steps=4, guidance=6.0, eta=1.0)
    return sampler(system.denoise, x_T, cond, system.unconditional(len(which), 8), generators, system.schedule)


def test_a_clip_does_not_depend_on_its_batch(tiny_system: VideoSystem):
    together = sampled(tiny_system, [0, 1])
    apart = torch.cat([sampled(tiny_system, [0]), sampled(tiny_system, [1])])
    torch.testing.assert_close(apart, together, rtol=1e-3, atol=1e-3)
    assert torch.equal(sampled(tiny_system, [0, 1]), together)


@torch.no_grad()
def test_every_input_matters(tiny_system: VideoSystem):
    x, t = torch.randn(1, 4, 4, 4, 4), torch.tensor([500])
    base = tiny_system.denoise(x, t, tiny_system.conditioning(PROMPTS[:1], 8))
    others = {
        "prompt": tiny_system.denoise(x, t, tiny_system.conditioning(PROMPTS[1:], 8)),
        "fps": tiny_system.denoise(x, t, tiny_system.conditioning(PROMPTS[:1], 24)),
        "t": tiny_system.denoise(x, t + 100, tiny_system.conditioning(PROMPTS[:1], 8)),
        "x": tiny_system.denoise(x.flip(2), t, tiny_system.conditioning(PROMPTS[:1], 8)).flip(2),
    }
    for name, other in others.items():
        assert (other - base).abs().max() > 1e-5, name


def test_conditioning_of_prompts(tiny_system: VideoSystem):
    cond = tiny_system.conditioning(PROMPTS, torch.tensor([8, 24]))
    assert cond.fps.tolist() == [8, 24]
    assert cond.image is None
    alone = tiny_system.conditioning(PROMPTS[1:], 24)
    torch.testing.assert_close(cond.text[1:], alone.text)
    empty = tiny_system.unconditional(2, torch.tensor([8, 24]))
    assert empty.fps.tolist() == [8, 24]
    torch.testing.assert_close(empty.text, tiny_system.embed(["", ""]))


def test_encode_draws_from_the_generators(tiny_system: VideoSystem):
    video = torch.rand(2, 3, 2, 32, 32) * 2 - 1
    mean, std = tiny_system.posterior(video)
    assert mean.shape == (2, 4, 2, 4, 4)
    torch.testing.assert_close(tiny_system.encode(video), 0.18215 * mean)
    noise = draw((4, 2, 4, 4), [sample_generator(0), sample_generator(1)])
    actual = tiny_system.encode(video, [sample_generator(0), sample_generator(1)])
    torch.testing.assert_close(actual, 0.18215 * (mean + std * noise))


def test_frames_are_encoded_and_decoded_one_by_one(tiny_system: VideoSystem):
    video = torch.rand(1, 3, 3, 32, 32) * 2 - 1
    latents = tiny_system.encode(video)
    torch.testing.assert_close(tiny_system.encode(video.flip(2)), latents.flip(2), rtol=1e-4, atol=1e-5)
    decoded = tiny_system.decode(latents)
    torch.testing.assert_close(tiny_system.decode(latents[:, :, 1:2]), decoded[:, :, 1:2], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(tiny_system.decode(latents, frames_per_batch=2), decoded, rtol=1e-4, atol=1e-5)


def test_uint8_is_clamped_and_truncated():
    video = torch.tensor([-3.0, -1.0, 0.0, 0.999, 1.0, 2.0]).reshape(1, 1, 6, 1, 1)
    assert to_uint8(video).flatten().tolist() == [0, 0, 127, 254, 255, 255]
    wide = torch.zeros(1, 3, 2, 4, 5)
    assert to_uint8(wide).shape == (1, 2, 4, 5, 3)


def test_dtype_is_the_networks(tiny_system: VideoSystem):
    system = tiny_system.to("cpu", torch.bfloat16)
    assert system.dtype == torch.bfloat16
    assert {p.dtype for name, part in system.modules().items() if name != "unet" for p in part.parameters()} == {
        torch.float32
    }
    eps = system.denoise(torch.randn(1, 4, 4, 4, 4), torch.tensor([10]), system.conditioning(PROMPTS[:1], 8))
    assert eps.dtype == torch.float32


def test_every_part_is_in_eval_mode(tiny_system: VideoSystem):
    assert not any(module.training for part in tiny_system.modules().values() for module in part.modules())


def test_gradient_reaches_the_network_and_nothing_else(tiny_system: VideoSystem):
    cond = tiny_system.conditioning(PROMPTS[:1], 8)
    tiny_system.denoise(torch.randn(1, 4, 4, 4, 4), torch.tensor([10]), cond).square().mean().backward()
    assert all(parameter.grad is not None for parameter in tiny_system.unet.parameters())
    assert all(
        p.grad is None for name, part in tiny_system.modules().items() if name != "unet" for p in part.parameters()
    )


def test_text_model_refuses_images(tiny_system: VideoSystem):
    with pytest.raises(UserError, match="takes no conditioning image"):
        tiny_system.conditioning(PROMPTS, 8, torch.zeros(1, 3, 32, 32))
    with pytest.raises(UserError, match="takes no image"):
        tiny_system.embed_image(torch.zeros(1, 3, 32, 32))


@pytest.fixture
def image_system(tiny_spec: ModelSpec) -> VideoSystem:
    """The tiny model as an image-to-video one."""
    projector = ResamplerSpec(dim=16, depth=1, head_dim=8, heads=2, num_queries=4, embedding_dim=32, output_dim=32)
    image = ImageSpec(
        width=32, layers=1, head_width=16, patch_size=16, image_size=32, embed_dim=16, text_width=32, vocab_size=40,
        projector=projector,
    )  # fmt: skip
    unet = dataclasses.replace(tiny_spec.unet, image_attention=True)
    spec = dataclasses.replace(tiny_spec, name="tiny_image", unet=unet, image=image)
    return build_system(spec, tokenizer=FileTokenizer.from_words(WORDS, spec.text.tokens))


def test_image_model(image_system: VideoSystem):
    image = torch.rand(1, 3, 48, 40) * 2 - 1
    cond = image_system.conditioning(PROMPTS, 8, image)
    assert cond.image is not None
    assert torch.equal(cond.image[0], cond.image[1])
    torch.testing.assert_close(cond.image[:1], image_system.embed_image(image))
    uncond = image_system.unconditional(2, 8)
    assert uncond.image is not None
    # The all-zero image *through* the encoder, of whatever size; not zero tokens.
    torch.testing.assert_close(uncond.image[:1], image_system.embed_image(torch.zeros(1, 3, 10, 20)))
    assert uncond.image.abs().max() > 0.01
    assert len(Conditioning.concat([cond, uncond])) == 4
    with pytest.raises(UserError, match="needs a conditioning image"):
        image_system.conditioning(PROMPTS, 8)


def test_preprocessing_of_a_constant_image_is_a_constant():
    """Blur, resize and borders keep a constant: (0.5 + 1)/2 − mean, over std."""
    pixels = preprocess_image(torch.full((1, 3, 70, 31), 0.5), 32)
    for channel, (mean, std) in enumerate(zip(CLIP_MEAN, CLIP_STD, strict=True)):
        expected = torch.full((32, 32), (0.75 - mean) / std)
        torch.testing.assert_close(pixels[0, channel], expected, rtol=1e-5, atol=1e-5)


def test_file_tokenizer(tmp_path: Path):
    words = FileTokenizer.from_words(["red", "circle", "A"], tokens=6)
    words.save(tmp_path / "tokenizer.json")
    tokenizer = FileTokenizer(tmp_path / "tokenizer.json", tokens=6)
    # pad 0, start 1, end 2, unknown 3, then the words in their order
    assert tokenizer(["a Red  circle", ""]).tolist() == [[1, 6, 4, 5, 2, 0], [1, 2, 0, 0, 0, 0]]
    assert tokenizer.vocabulary == ["a", "circle", "red"]
    assert tokenizer([]).shape == (0, 6)
    with pytest.raises(UserError, match=r"does not know: purple, dog; it knows: a, circle, red"):
        tokenizer(["a purple dog"])
    with pytest.raises(UserError, match="has 5 words; this model reads at most 4"):
        tokenizer(["a a a a a"])
    with pytest.raises(UserError, match="does not exist"):
        FileTokenizer(tmp_path / "other.json", tokens=6)


def test_special_words_cannot_be_prompted():
    with pytest.raises(UserError, match="<end>"):
        FileTokenizer.from_words(["red"], tokens=6)(["red <end>"])


def test_clip_tokenizer_pads_with_zero_and_cuts():
    ids = ClipTokenizer()(["a boat moving on the sea", "word " * 100])
    assert ids[0].tolist()[:9] == [49406, 320, 4440, 3584, 525, 518, 2102, 49407, 0]
    assert [int(ids[1, 0]), int(ids[1, -1])] == [49406, 49407]


def test_a_file_tokenizer_must_be_given(tiny_spec: ModelSpec):
    with pytest.raises(UserError, match="tokenizer"):
        build_system(tiny_spec)
