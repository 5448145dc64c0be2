"""Text that rests in its place, as a watermark does, found by an OCR (rapidocr). Axes: t frames, h w pixels."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from perturb.metrics.base import Clip, Context, MetricInfo, Value, score_each
from perturb.metrics.learned.network import Learned
from perturb.metrics.learned.weights import packaged

DETECTION = packaged(
    "rapidocr",
    "rapidocr/models/PP-OCRv6_det_small.onnx",
    "090f04abcd9d9a7498bc4ebf677e4cb9bdce1fe4197ddb7e529f1ef44e1ff94f",
)
RECOGNITION = packaged(
    "rapidocr",
    "rapidocr/models/PP-OCRv6_rec_small.onnx",
    "6f327246b50388f3c176ae304bd95767ea6dc0c9ae92153ef8cbe210b3c14884",
)
LETTERS = 2  # a single one is more often a shape


class RestingText(Learned[Any]):
    """Share of the frame under text that stays where it is."""

    weights = (DETECTION, RECOGNITION)
    packages = ("rapidocr",)  # it decides what is text
    infos = (
        MetricInfo.of(
            "resting_text",
            "visual",
            "share of the frame that text (2 letters or more) covers in the first, the middle and the last frame",
            "this project; PP-OCRv6 (rapidocr)",
            "Text of the scene counts like a mark: a printed page has .4 to .7, also behind a moving disc and "
            "under a camera that drifts. Boxes are generous, by a third for a word and more in small frames (.36 "
            "for four letters at 64 px). A mark of opacity .1 is not seen, one of .4 is; other distortions give 0.",
            direction="down",
            needs=(DETECTION.name, RECOGNITION.name),
        ),
    )

    def load(self, paths: Sequence[Path], device: str) -> Any:
        """The package's reader, on the CPU, silent, in as many threads as torch has."""
        import torch
        from rapidocr import RapidOCR

        threads = "EngineConfig.onnxruntime.intra_op_num_threads"
        return RapidOCR(
            params={"Global.log_level": "critical", "Global.use_cls": False, threads: torch.get_num_threads()}
        )

    def __call__(self, clips: Sequence[Clip], context: Context) -> Mapping[str, Sequence[Value]]:
        reader = self.network()

        def measure(clip: Clip) -> Mapping[str, float]:
            covered = np.ones(clip.frames.shape[1:3], bool)
            for t in sorted({0, len(clip.frames) // 2, len(clip.frames) - 1}):
                if covered.any():
                    covered &= text(reader, clip.frames[t])
            return {"resting_text": float(covered.mean())}

        return score_each(self.infos, clips, measure)


def text(reader: Any, frame: np.ndarray) -> np.ndarray:
    """Where an RGB frame has text: boolean `h w`."""
    found = reader(np.ascontiguousarray(frame[..., ::-1]))  # it wants OpenCV's order of channels
    mask = np.zeros(frame.shape[:2], np.uint8)
    if found.boxes is not None:
        words = [box for box, word in zip(found.boxes, found.txts, strict=True) if len(word.strip()) >= LETTERS]
        cv2.fillPoly(mask, [np.round(box).astype(np.int32) for box in words], 1)
    return mask.astype(bool)
