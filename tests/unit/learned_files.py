"""Random weights in the published file formats: names, keys, shapes and folder layouts as on the web, small inside.

Where the loader honours a configuration (DINO, CLIP) the networks are small; the others have their full size.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torch import Tensor, nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from perturb.metrics import Clip
from perturb.metrics.learned.aesthetic import CLIP_LARGE, HEAD
from perturb.metrics.learned.clip import CLIP
from perturb.metrics.learned.dino import DINO
from perturb.metrics.learned.inception import INCEPTION
from perturb.metrics.learned.lpips import FILES
from perturb.metrics.learned.raft import RAFT

WIDTH, EMBEDDING = 32, 16
TRUNK_MODELS = {"alex": torchvision.models.alexnet, "vgg": torchvision.models.vgg16}
PREPROCESSORS: Mapping[str, Mapping[str, Any]] = {
    DINO.name: {
        "do_normalize": True,
        "do_resize": True,
        "feature_extractor_type": "ViTFeatureExtractor",
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "resample": 2,
        "size": 224,
    },
    CLIP.name: {
        "crop_size": 224,
        "do_center_crop": True,
        "do_normalize": True,
        "do_resize": True,
        "feature_extractor_type": "CLIPFeatureExtractor",
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "resample": 3,
        "size": 224,
    },
}


def scene(seed: int, frames: int = 4, size: tuple[int, int] = (40, 48), prompt: str = "", fps: float = 8) -> Clip:
    """Smooth random textures that change from frame to frame."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.random((frames, 3, 6, 6)) * 0.5 + rng.random((1, 3, 6, 6)) * 0.5)
    fine = nn.functional.interpolate(coarse, size=size, mode="bicubic").clamp(0, 1)
    pixels = (fine * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
    return Clip(pixels, fps, f"p{seed:03d}", 0, 0, prompt)


def write_trunk(folder: Path, net: str = "alex") -> Path:
    """torchvision's state dict of AlexNet or VGG-16. LPIPS does not read the classifier: one stored number each."""
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in TRUNK_MODELS[net](weights=None).state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    state = {
        key: 0.05 * torch.randn(size, generator=generator)
        if key.startswith("features")
        else torch.zeros(1).expand(size)
        for key, size in shapes.items()
    }
    torch.save(state, folder / FILES[net])
    return folder / FILES[net]


def write_raft(folder: Path) -> Path:
    """torchvision's state dict of raft_large; the flow head is scaled to motions of a few pixels."""
    torch.manual_seed(0)
    network = torchvision.models.optical_flow.raft_large(weights=None)
    torch.save(network.state_dict(), folder / RAFT.name)
    return folder / RAFT.name


class _Unloaded(FeatureExtractorInceptionV3):
    """torch-fidelity's network as it is before it reads a file."""

    def load_state_dict(self, *_: Any, **__: Any) -> Any:
        return None


def write_inception(folder: Path) -> Path:
    """torch-fidelity's state dict, scaled so that frames get different features and classes in spite of 20 layers."""
    path = folder / INCEPTION.name
    torch.save({}, path)
    torch.manual_seed(0)
    network = _Unloaded("inception-v3-compat", ["2048"], feature_extractor_weights_path=str(path))
    state = {key: 6**0.5 * value if value.ndim == 4 else value for key, value in network.state_dict().items()}
    state["fc.weight"] = 40 * state["fc.weight"]
    torch.save(state, path)
    return path


def write_head(folder: Path, width: int = EMBEDDING) -> Path:
    """LAION's file: `weight` 1×d and `bias` 1."""
    torch.manual_seed(1)
    torch.save({"weight": torch.randn(1, width), "bias": torch.tensor([5.0])}, folder / HEAD.name)
    return folder / HEAD.name


def write_dino(folder: Path) -> Path:
    """A snapshot of facebook/dino-vitb16: config.json, preprocessor_config.json, model.safetensors."""
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    config = ViTConfig(hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
    config.initializer_range = 0.2
    return _snapshot(folder / DINO.name, ViTModel(config, add_pooling_layer=False), PREPROCESSORS[DINO.name])


def write_clip(folder: Path, name: str = CLIP.name) -> Path:
    """A snapshot of one of OpenAI's CLIP repositories, with a tokenizer of single bytes."""
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    torch.manual_seed(0 if name == CLIP.name else 2)
    tower = {"hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    tower |= {"projection_dim": EMBEDDING, "initializer_factor": 5.0}
    text = tower | {"vocab_size": 514, "bos_token_id": 512, "eos_token_id": 513}
    vision = tower | {"image_size": 224, "patch_size": 32 if name == CLIP.name else 14}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=EMBEDDING, initializer_factor=5.0)
    place = _snapshot(folder / name, CLIPModel(config), PREPROCESSORS[CLIP.name])
    symbols = list(bytes_to_unicode().values())
    words = [*symbols, *(f"{symbol}</w>" for symbol in symbols), "<|startoftext|>", "<|endoftext|>"]
    CLIPTokenizer(vocab={word: number for number, word in enumerate(words)}, merges=[]).save_pretrained(place)
    return place


def write_clip_large(folder: Path) -> Path:
    return write_clip(folder, CLIP_LARGE.name)


def _snapshot(place: Path, model: Any, preprocessor: Mapping[str, Any]) -> Path:
    model.save_pretrained(place)
    (place / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return place


def into_hub_cache(snapshot: Path, cache: Path, name: str) -> Path:
    """The same files as the hub's client lays them out: blobs, refs/main and links in snapshots/REVISION."""
    home, revision = cache / f"models--{name.replace('/', '--')}", "0123456789abcdef0123456789abcdef01234567"
    for part in ("blobs", "refs", f"snapshots/{revision}"):
        (home / part).mkdir(parents=True)
    (home / "refs" / "main").write_text(revision)
    for number, path in enumerate(sorted(snapshot.iterdir())):
        blob = home / "blobs" / f"{number:064x}"
        blob.write_bytes(path.read_bytes())
        (home / "snapshots" / revision / path.name).symlink_to(blob)
    return home / "snapshots" / revision


def frames(clip: Clip) -> Tensor:
    """uint8 `t c h w`."""
    return torch.from_numpy(clip.frames).permute(0, 3, 1, 2)
