"""CLIP ViT-B/32: do the frames stay alike, and do they show what the prompt says?

Frames go through the processor that is published with the weights. EvalCrafter's scripts feed 0 to 255 as if it were
normalised; its definitions are kept here, that is not. Axes: t frames, c channels, h w pixels, d features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from perturb.metrics.base import Axis, Clip, Context, MetricInfo, Unavailable, Value
from perturb.metrics.learned.files import frozen, pretrained
from perturb.metrics.learned.network import Learned, pixels, through, values
from perturb.metrics.learned.similarity import consistency, directions, to_first, to_previous
from perturb.metrics.learned.weights import hub

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import CLIPModel

CLIP = hub("openai/clip-vit-base-patch32", "tokenizer.json")
EVALCRAFTER = "EvalCrafter (Liu et al. 2024); CLIP: Radford et al. 2021"
STILL = "A static clip has 1: read it beside the dynamics."


@dataclass(frozen=True)
class ClipEncoder:
    """CLIP and the image processor published with it."""

    model: CLIPModel
    processor: Any
    device: str

    @staticmethod
    def read(folder: Path, device: str) -> ClipEncoder:
        """The model of a snapshot folder."""
        from transformers import CLIPImageProcessor, CLIPModel

        processor = CLIPImageProcessor.from_pretrained(folder, local_files_only=True)
        return ClipEncoder(frozen(pretrained(CLIPModel, folder), device), processor, device)

    def prepare(self, clip: Clip) -> Tensor:
        """The frames as the network takes them: `t c h w`, resized, cropped to a square and normalised."""
        return self.processor(images=pixels(clip, self.device), return_tensors="pt")["pixel_values"]

    def images(self, frames: Tensor) -> Tensor:
        """Projected image embeddings, not normalised: `t c h w` → `t d`."""
        return self.model.visual_projection(self.model.vision_model(pixel_values=frames).pooler_output)

    def text(self, prompt: str, tokenizer: Any) -> np.ndarray:
        """The projected embedding of a prompt, cut at 77 tokens: `d`."""
        import torch

        tokens_at_most = self.model.text_model.embeddings.position_embedding.num_embeddings
        tokens = tokenizer([prompt], truncation=True, max_length=tokens_at_most)
        ids = torch.tensor(tokens["input_ids"], device=self.device)
        with torch.inference_mode():
            projected = self.model.text_projection(self.model.text_model(input_ids=ids).pooler_output)
        return projected[0].double().cpu().numpy()


def _info(name: str, axis: Axis, formula: str, source: str, pitfalls: str, *, low: float = -1.0) -> MetricInfo:
    depends = () if axis == "text" else ("fps",)
    needs = (CLIP.name,)
    return MetricInfo.of(name, axis, formula, source, pitfalls, range=(low, 1.0), needs=needs, depends=depends)


class ClipFrames(Learned[tuple[ClipEncoder, Any]]):
    """Background consistency, CLIP-temp, face consistency and, for clips with a prompt, CLIP score."""

    weights = (CLIP,)
    infos = (
        _info(
            "background_consistency",
            "motion",
            "mean over t ≥ 1 of ½[max(0, cos to previous) + max(0, cos to first)] of CLIP ViT-B/32 embeddings",
            "VBench (Huang et al. 2024); CLIP: Radford et al. 2021",
            f"{STILL} The whole frame counts, not the background alone; the sides are cut off.",
            low=0.0,
        ),
        _info(
            "clip_temp",
            "motion",
            "mean over t ≥ 1 of cos(x_t, x_{t-1}), x = CLIP ViT-B/32 embeddings",
            EVALCRAFTER,
            f"{STILL} Differences lie in the second decimal. EvalCrafter's own numbers come from frames that were not "
            "normalised, and cannot be compared with these.",
        ),
        _info(
            "face_consistency",
            "motion",
            "mean over t ≥ 1 of cos(x_t, x_0), x = CLIP ViT-B/32 embeddings",
            EVALCRAFTER,
            f"{STILL} The name is EvalCrafter's: no face is looked for. Longer clips drift further.",
        ),
        _info(
            "clip_score",
            "text",
            "mean over t of cos(x_t, y), x = CLIP ViT-B/32 embeddings of the frames, y of the prompt",
            EVALCRAFTER,
            "Values lie near .2 to .35; blind to direction and speed of motion. Prompts are cut at 77 tokens. "
            "Clips without a prompt have none.",
        ),
    )

    def load(self, paths: Sequence[Path], device: str) -> tuple[ClipEncoder, Any]:
        """The encoder and its tokenizer."""
        from transformers import AutoTokenizer

        return ClipEncoder.read(paths[0], device), AutoTokenizer.from_pretrained(paths[0], local_files_only=True)

    def __call__(self, clips: Sequence[Clip], context: Context) -> Mapping[str, Sequence[Value]]:
        """All four from one pass over the frames and one over each different prompt."""
        encoder, tokenizer = self.network()
        prompts = {clip.prompt for clip in clips if clip.prompt}
        texts = {prompt: encoder.text(prompt, tokenizer) for prompt in sorted(prompts)}

        def score(clip: Clip, found: np.ndarray) -> float:
            if clip.prompt not in texts:
                raise Unavailable("the clip has no prompt to compare it with")
            return float(np.mean(directions(found) @ directions(texts[clip.prompt][None])[0]))

        kept = through(encoder.images, clips, encoder.prepare, chunk=self.chunk)
        measures = {
            "background_consistency": lambda _clip, found: consistency(found),
            "clip_temp": lambda _clip, found: float(np.mean(to_previous(found))),
            "face_consistency": lambda _clip, found: float(np.mean(to_first(found))),
            "clip_score": score,
        }
        return values(measures, clips, kept)
