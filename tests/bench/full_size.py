"""What the benches of a model at full size share: the size, the device, the model with random weights, the clock.

PERTURB_BENCH_SIZE: full, the published size (default on a GPU); levels, the two finest of its four levels at their
published widths, what a processor can do; tiny, to see that everything runs. PERTURB_BENCH_CLIP=frames,height,width.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from perturb.models.videocrafter.published import SPECS
from perturb.models.videocrafter.spec import ModelSpec
from perturb.models.videocrafter.system import VideoSystem, build_system
from perturb.models.videocrafter.tokenizer import FileTokenizer
from perturb.world.scenes import WORDS

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
SIZE = os.environ.get("PERTURB_BENCH_SIZE", "full" if GPU else "")
TINY = SIZE == "tiny"
FRAMES, HEIGHT, WIDTH = (
    int(side) for side in os.environ.get("PERTURB_BENCH_CLIP", "4,32,32" if TINY else "16,320,512").split(",")
)
TURNS = int(os.environ.get("PERTURB_BENCH_TURNS", "2" if TINY else "7"))
HALF = torch.float16 if GPU else torch.bfloat16  # on a processor float16 is slow
GIB = 2**30


def random_system(tiny: ModelSpec) -> VideoSystem:
    """Fresh weights; the zero-initialised layers get small ones, so that every layer reaches the output."""
    torch.manual_seed(0)
    if SIZE == "full":
        system = build_system(SPECS["t2v_512_v2"], device=DEVICE)
    else:
        two = replace(SPECS["t2v_512_v2"].unet, channel_mult=(1, 2), attention_resolutions=(2, 1))
        text = replace(tiny.text, width=two.context_dim, embed_dim=two.context_dim)
        spec = tiny if TINY else replace(tiny, unet=two, text=text)
        system = build_system(spec, FileTokenizer.from_words(WORDS, tiny.text.tokens))
    with torch.no_grad():
        for parameter in system.unet.parameters():
            if parameter.ndim > 1 and not parameter.any():
                parameter.normal_(std=0.02)
    return system.to(DEVICE)


def diffusers_network(system: VideoSystem, fps: int) -> nn.Module:
    """diffusers' `UNet3DConditionModel` with the very weights of the system, computing the same at ``fps``."""
    from diffusers import UNet3DConditionModel

    from perturb.models.videocrafter.diffusers_folder import CONV1D, at_fps, configs
    from perturb.models.videocrafter.keymap.stable_diffusion import diffusers_keys

    with torch.device("meta"):
        theirs: Any = UNet3DConditionModel.from_config(configs(system.spec)["unet/config.json"])
    ours = {name: parameter.detach() for name, parameter in system.unet.named_parameters()}
    told = {name: weight.cpu() if name.startswith(("fps", "time")) else weight for name, weight in ours.items()}
    state = at_fps(told, system.spec.unet, fps)
    keys = {key: name for key, name in diffusers_keys(system.unet).items() if name in state}
    weights = {key: state[name].squeeze(-1) if key in CONV1D else state[name] for key, name in keys.items()}
    theirs.load_state_dict(weights, assign=True)
    return theirs.to(DEVICE).requires_grad_(False).eval()


def clock() -> float:
    """Seconds: of the GPU once it has done all work, else of the processor's work for this process."""
    if not GPU:
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def measured(function: Callable[[], object]) -> tuple[float, str]:
    """Seconds, and the peak of GPU memory in words."""
    if GPU:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    start = clock()
    function()
    seconds = clock() - start
    return seconds, f"peak {torch.cuda.max_memory_allocated() / GIB:.1f} GiB" if GPU else "no GPU's memory"


@contextmanager
def in_dtype(system: VideoSystem, dtype: torch.dtype) -> Iterator[None]:
    """The network in ``dtype``, then in float32 again, rounded."""
    system.to(DEVICE, dtype)
    try:
        yield
    finally:
        system.to(DEVICE, torch.float32)
