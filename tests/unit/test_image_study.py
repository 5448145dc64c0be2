"""An image per prompt in a study, and the image branch of the network as the group that is perturbed."""

from pathlib import Path

import numpy as np
import pytest
import torch
from fit_stills import Stills, setup
from image_models import built, dynamicrafter_spec, image_spec
from PIL import Image

from perturb.cli.identity import images_of_prompts
from perturb.cli.plan import batch_of, forward_cost, needed
from perturb.data.prompts import Prompt, load_prompts
from perturb.diffusion import DDIMSampler
from perturb.errors import UserError
from perturb.models.videocrafter.checkpoint import unread
from perturb.models.videocrafter.spec import ModelSpec
from perturb.models.videocrafter.system import VideoSystem
from perturb.perturbation import LoraPerturbation
from perturb.store.hashes import sha256
from perturb.store.rundir import RunDir
from perturb.store.tensors import hash_modules, moved
from perturb.study.fit import FitConfig, fit
from perturb.study.fit_data import FitData
from perturb.study.sample import Generator, SampleConfig

TEXTS = ("a red circle moving left slowly", "a blue square moving up fast")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Two prompts, an image beside each; the second has a last one too."""
    (tmp_path / "pictures").mkdir()
    for number, name in enumerate(("a", "b", "c")):
        pixels = np.random.default_rng(number).integers(0, 255, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{name}.png")
    path = tmp_path / "prompts.csv"
    path.write_text(f"prompt,image\n{TEXTS[0]},pictures/a.png\n{TEXTS[1]},pictures/b.png\n")
    return path


def generator(system: VideoSystem, prompts: list[Prompt], image: Path | None = None) -> Generator:
    given = None if image is None else str(image)
    return Generator(system, DDIMSampler(steps=2, guidance=2.0), prompts, SampleConfig(batch_size=2), image=given)


def clip(system: VideoSystem, prompts: list[Prompt], index: int, image: Path | None = None) -> np.ndarray:
    make = generator(system, prompts, image)
    return make(make.jobs[index : index + 1], lambda share: None)[0].astype(int)


def test_each_prompt_has_its_own_image(table: Path, tiny_spec: ModelSpec):
    system, prompts = built(image_spec(tiny_spec)), load_prompts(table)
    pictures = table.parent / "pictures"
    assert prompts[1].images == (str(pictures / "b.png"),)
    make = generator(system, prompts)
    for index, name in enumerate("ab"):
        alone = generator(system, [Prompt(f"p{index:03d}", TEXTS[index])], pictures / f"{name}.png")
        assert make.cond.image is not None
        assert alone.cond.image is not None
        torch.testing.assert_close(make.cond.image[index], alone.cond.image[0])
    assert make.describe()["images"] == {f"p{i:03d}": [sha256(pictures / f"{name}.png")] for i, name in enumerate("ab")}
    # an image for all serves those that have none
    mixed = [prompts[0], Prompt("p001", TEXTS[1])]
    assert np.abs(clip(system, mixed, 1, pictures / "b.png") - clip(system, prompts, 1)).max() <= 1
    with pytest.raises(UserError, match=r"1 prompts have no image, e\.g\. p001"):
        generator(system, mixed)


def test_a_text_model_refuses_a_table_with_images(table: Path, tiny_system: VideoSystem):
    with pytest.raises(UserError, match="takes no conditioning image"):
        generator(tiny_system, load_prompts(table))


def test_the_image_is_cut_or_stretched_as_the_model_was_taught(table: Path, tiny_spec: ModelSpec):
    """A picture of black sides and a grey middle: cut to a square, the middle alone is left."""
    pixels = np.zeros((32, 96, 3), np.uint8)
    pixels[:, 32:64] = 128
    Image.fromarray(pixels).save(table.parent / "pictures" / "a.png")
    cut, stretched = built(dynamicrafter_spec(tiny_spec)), built(image_spec(tiny_spec))
    prompts = load_prompts(table)[:1]
    first, second = (generator(system, prompts)._pixels(prompts[0].images) for system in (cut, stretched))
    assert first is not None
    assert second is not None
    assert first.shape == second.shape == (1, 3, 32, 32)
    torch.testing.assert_close(first[0, :, :, 2:-2], torch.full((3, 32, 28), 128 / 255 * 2 - 1))
    assert second[0, :, :, :8].max() < -0.99  # the black side is still there


def test_two_images_are_the_ends_of_a_clip(table: Path, tiny_spec: ModelSpec):
    table.write_text(f"prompt,image,last_image\n{TEXTS[0]},pictures/a.png,pictures/c.png\n{TEXTS[1]},pictures/b.png,\n")
    prompts = load_prompts(table)
    assert [len(prompt.images) for prompt in prompts] == [2, 1]
    system = built(dynamicrafter_spec(tiny_spec, "ends"))
    latents = generator(system, prompts).cond.image_latents
    assert latents is not None
    assert latents.shape == (2, 4, 2, 4, 4)
    gap = (latents[:, :, 0] - latents[:, :, 1]).abs().amax((1, 2, 3))
    assert gap[0] > gap[1]  # one image is a loop: its two latents are draws of one posterior
    table.write_text(f"prompt,image,last_image\n{TEXTS[0]},,pictures/c.png\n")
    with pytest.raises(UserError, match="has a last_image and no image"):
        load_prompts(table)


def test_a_run_is_another_one_when_an_image_changes(table: Path):
    prompts = {"file": str(table), "limit": 1, "columns": None}
    before = images_of_prompts(prompts)
    assert before == {"p000": [sha256(table.parent / "pictures" / "a.png")]}
    Image.new("RGB", (32, 32)).save(table.parent / "pictures" / "a.png")
    assert images_of_prompts(prompts) != before
    (table.parent / "pictures" / "a.png").unlink()
    with pytest.raises(UserError, match=r"prompt p000 has no image file .*a\.png: paths are relative"):
        images_of_prompts(prompts)


def test_a_plan_reckons_with_images(table: Path, tiny_spec: ModelSpec):
    spec = dynamicrafter_spec(tiny_spec)
    system = unread(spec, "meta", "float32")
    batch = batch_of(system, spec.latent_shape(4, 32, 32), 2, 8)
    assert forward_cost(system, lambda: system.denoise(batch.x0, batch.t, batch.cond)).flop > 0
    prompts = {"file": str(table), "limit": None, "columns": None}
    assert needed({"prompts": prompts, "image": None}, takes_image=True) == []
    table.write_text(f"prompt,image\n{TEXTS[0]},pictures/a.png\n{TEXTS[1]},\n")
    (line,) = needed({"prompts": prompts, "image": None}, takes_image=True)
    assert line.startswith("image=…  is not given")


def test_the_image_branch_is_a_group_that_can_be_perturbed(table: Path, tiny_spec: ModelSpec, tmp_path: Path):
    system, prompts = built(dynamicrafter_spec(tiny_spec)), load_prompts(table)
    untouched, before = hash_modules(system.modules()), clip(system, prompts, 0)
    lora = LoraPerturbation(rank=2, alpha=2.0)
    config = FitConfig(batch_size=2, warmup_steps=1, learning_rate=0.1, text_dropout=0.5)
    stills = setup(system, Stills("repeat"), config)
    fit(stills, lora, group="image", probe_steps=(0, 4), run=RunDir(tmp_path / "run"))
    layers = lora.describe()["layers"]
    assert len(layers) == 2 * len([n for n, _ in system.unet.named_modules() if n.endswith("cross_attention.image")])
    assert all(".cross_attention.image." in layer for layer in layers)
    assert np.abs(clip(system, prompts, 0) - before).max() > 1
    lora.detach()
    assert not moved(untouched, hash_modules(system.modules()))


def test_a_still_alone_has_no_tokens_of_its_own(tiny_spec: ModelSpec):
    system, config = built(dynamicrafter_spec(tiny_spec)), FitConfig(batch_size=2, text_dropout=1.0)
    with pytest.raises(UserError, match=r"exactly 4 frames.*given 1\..*images\.as_video=repeat"):
        FitData(system, Stills(), config)
    (batch,) = FitData(system, Stills("repeat"), config).inputs(0, range(2))
    # with the text dropped the still is joined all the same, as in guidance
    assert batch.cond.image_latents is not None
    assert batch.cond.image is not None
    empty = system.unconditional(1, 8)
    assert empty.image is not None
    torch.testing.assert_close(batch.cond.image[:1], empty.image)
    assert system.loss(batch).isfinite().all()
