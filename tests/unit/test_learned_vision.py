"""DINO, CLIP and the aesthetic predictor against transformers and torchmetrics on the same weights."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from learned_files import frames, scene, write_clip, write_clip_large, write_dino, write_head
from torch import Tensor

from perturb.metrics import Clip, Context, Value
from perturb.metrics.learned.aesthetic import Aesthetic
from perturb.metrics.learned.clip import ClipFrames
from perturb.metrics.learned.dino import Dino
from perturb.metrics.learned.similarity import consistency, to_first, to_previous

CLIPS = [scene(0, prompt="a red circle"), scene(1, frames=3, size=(32, 80), prompt="a cat"), scene(2, frames=5)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("weights")
    for write in (write_dino, write_clip, write_clip_large, write_head):
        write(place)
    return place


def numbers(values: "list[Value] | object") -> list[float | None]:
    assert isinstance(values, list)
    return [value.value for value in values]


def vbench(features: Tensor) -> float:
    """VBench's own loop: similarities clamped at 0, first and previous averaged, mean over the later frames."""
    unit = torch.nn.functional.normalize(features.double(), dim=-1)
    total = 0.0
    for t in range(1, len(unit)):
        previous, first = max(0.0, float(unit[t] @ unit[t - 1])), max(0.0, float(unit[t] @ unit[0]))
        total += (previous + first) / 2
    return total / (len(unit) - 1)


@torch.no_grad()
def clip_features(folder: Path, clip: Clip) -> Tensor:
    from PIL import Image
    from transformers import CLIPImageProcessor, CLIPModel

    place = folder / "openai/clip-vit-base-patch32"
    images = [Image.fromarray(frame) for frame in clip.frames]
    inputs = CLIPImageProcessor.from_pretrained(place)(images=images, return_tensors="pt")
    model = CLIPModel.from_pretrained(place)
    return model.visual_projection(model.vision_model(**inputs).pooler_output)


def test_similarities_by_hand() -> None:
    turning = np.array([[2.0, 0.0], [3.0, 3.0], [0.0, 1.0], [-1.0, 0.0]])
    half = np.sqrt(0.5)
    assert to_previous(turning) == pytest.approx([half, half, 0])
    assert to_first(turning) == pytest.approx([half, 0, -1])
    # ½[(.707 + .707) + (.707 + 0) + (0 + max(0, -1))] / 3
    assert consistency(turning) == pytest.approx(3 * half / 6)
    assert np.isnan(consistency(np.zeros((2, 3))))


@torch.no_grad()
def test_dino_is_the_published_network_behind_its_processor(folder: Path) -> None:
    from transformers import AutoImageProcessor, AutoModel

    place = folder / "facebook/dino-vitb16"
    found = numbers(Dino(weights=str(folder), chunk=3)(CLIPS, Context())["subject_consistency"])
    processor, model = AutoImageProcessor.from_pretrained(place), AutoModel.from_pretrained(place)
    inputs = [processor(images=list(frames(clip)), return_tensors="pt") for clip in CLIPS]
    expected = [vbench(model(**one).last_hidden_state[:, 0]) for one in inputs]
    assert found == pytest.approx(expected, rel=1e-5)
    assert max(expected) < 0.98


def test_clip_consistencies_follow_their_definitions(folder: Path) -> None:
    results = ClipFrames(weights=str(folder), chunk=4)(CLIPS, Context())
    features = [clip_features(folder, clip) for clip in CLIPS]
    unit = [torch.nn.functional.normalize(one.double(), dim=-1) for one in features]
    adjacent = [np.mean([float(a @ b) for a, b in pairwise(u)]) for u in unit]
    first = [np.mean([float(a @ u[0]) for a in u[1:]]) for u in unit]
    assert numbers(results["background_consistency"]) == pytest.approx([vbench(f) for f in features], rel=1e-4)
    assert numbers(results["clip_temp"]) == pytest.approx(adjacent, rel=1e-4)
    assert numbers(results["face_consistency"]) == pytest.approx(first, rel=1e-4)


def test_clip_score_is_that_of_torchmetrics(folder: Path) -> None:
    from torchmetrics.multimodal import CLIPScore
    from transformers import CLIPModel, CLIPProcessor

    class Projected(CLIPModel):
        """torchmetrics 1.9 expects plain features, which transformers 5 wraps."""

        def get_image_features(self, *args: Any, **kwargs: Any) -> Any:
            wrapped: Any = super().get_image_features(*args, **kwargs)
            return wrapped.pooler_output

        def get_text_features(self, *args: Any, **kwargs: Any) -> Any:
            wrapped: Any = super().get_text_features(*args, **kwargs)
            return wrapped.pooler_output

    place = folder / "openai/clip-vit-base-patch32"
    model, processor = Projected.from_pretrained(place), CLIPProcessor.from_pretrained(place)
    found = ClipFrames(weights=str(folder))(CLIPS, Context())["clip_score"]
    for clip, value in zip(CLIPS[:2], found, strict=False):
        reference = CLIPScore(lambda: (model, processor))
        reference.update(list(frames(clip)), [clip.prompt] * len(clip.frames))
        expected = float(reference.score / reference.n_samples)  # 100 · mean cosine, before torchmetrics clamps it at 0
        assert value.value == pytest.approx(expected / 100, abs=2e-6)
    assert found[2].status == "unavailable"
    assert "no prompt" in found[2].reason


def test_frames_reach_clip_normalised(folder: Path) -> None:
    """EvalCrafter's scripts hand 0 to 255 to CLIP. The same clip then gets another number, and ours is not it."""
    from transformers import CLIPModel

    clip = CLIPS[0]
    model = CLIPModel.from_pretrained(folder / "openai/clip-vit-base-patch32")
    with torch.no_grad():
        raw = torch.nn.functional.interpolate(frames(clip).float(), size=(224, 224), mode="bilinear")
        features = model.visual_projection(model.vision_model(pixel_values=raw).pooler_output)
    wrong = float(np.mean(to_previous(features.double().numpy())))
    right = numbers(ClipFrames(weights=str(folder))([clip], Context())["clip_temp"])[0]
    assert right is not None
    assert abs(right - wrong) > 0.01


def test_every_frame_counts(folder: Path) -> None:
    """A loop that embeds frame 0 again and again would not see any of these."""
    inverted = [CLIPS[0].frames.copy() for _ in range(4)]
    for frame, copy in enumerate(inverted):
        copy[frame] = 255 - copy[frame]
    clips = [CLIPS[0], *(Clip(copy, 8.0, "inverted", 0, 0) for copy in inverted)]
    for metric in (Dino(weights=str(folder)), ClipFrames(weights=str(folder)), Aesthetic(weights=str(folder))):
        before, *after = numbers(metric(clips, Context())[metric.infos[0].name])
        assert all(value != pytest.approx(before, abs=1e-4) for value in after)


def test_a_static_clip_is_perfectly_consistent_and_one_frame_is_no_number(folder: Path) -> None:
    """The originals answer 0 for what they cannot compute."""
    static = Clip(np.repeat(CLIPS[0].frames[:1], 3, axis=0), 8.0, "static", 0, 0)
    single = Clip(CLIPS[0].frames[:1], 8.0, "single", 0, 0, "a cat")
    for metric in (Dino(weights=str(folder)), ClipFrames(weights=str(folder))):
        for name, values in metric([static, single], Context()).items():
            if name == "clip_score":
                assert values[1].status == "ok"
                continue
            assert values[0].value == pytest.approx(1, abs=1e-6)
            assert (values[1].status, values[1].value) == ("failed", None)
            assert "at least 2" in values[1].reason


@torch.no_grad()
def test_aesthetic_is_the_linear_head_on_the_normalised_embedding(folder: Path) -> None:
    from transformers import CLIPImageProcessor, CLIPModel

    place = folder / "openai/clip-vit-large-patch14"
    model, processor = CLIPModel.from_pretrained(place), CLIPImageProcessor.from_pretrained(place)
    head = torch.load(folder / "sa_0_4_vit_l_14_linear.pth")
    expected = []
    for clip in CLIPS:
        pixels = processor(images=list(frames(clip)), return_tensors="pt")["pixel_values"]
        x = model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output)
        x = x / x.norm(dim=-1, keepdim=True)
        expected.append(float((x @ head["weight"].T + head["bias"]).mean()) / 10)
    found = numbers(Aesthetic(weights=str(folder), chunk=5)(CLIPS, Context())["aesthetic"])
    assert found == pytest.approx(expected, rel=1e-5)
    assert np.ptp(expected) > 1e-3


@pytest.mark.parametrize("kind", [Dino, ClipFrames, Aesthetic])
def test_numbers_do_not_depend_on_which_clips_are_scored_together(
    folder: Path, kind: type[Dino] | type[ClipFrames] | type[Aesthetic]
) -> None:
    metric = kind(weights=str(folder), chunk=4)
    together, alone = metric(CLIPS, Context()), [metric([clip], Context()) for clip in CLIPS]
    backwards = metric(CLIPS[::-1], Context())
    for name, values in together.items():
        assert list(values) == [one[name][0] for one in alone] == list(backwards[name])[::-1]
