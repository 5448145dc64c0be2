"""VideoCrafter2 at full size with random weights on one GPU: seconds and memory of sampling and of fitting.

On a GPU with 40 GB, by estimate in seven minutes; on a processor, in one to see that it runs; and what that can do:

CUDA_VISIBLE_DEVICES=0 pytest -m slow -s tests/bench/test_gpu.py
PERTURB_BENCH_SIZE=tiny pytest -m slow -s tests/bench/test_gpu.py
PERTURB_BENCH_SIZE=levels PERTURB_BENCH_CLIP=8,128,192 pytest -m slow -s tests/bench/test_gpu.py -k "forward or peft"

The published code is no part of this: it is stood for by what its script does with a network (float32 weights under
autocast, both sides of guidance one after the other), done with ours, and by diffusers' implementation of the network.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from perturb.data.images import ImageFolder
from perturb.data.prompts import Prompt
from perturb.diffusion import Conditioning
from perturb.diffusion.ddim import DDIMSampler
from perturb.models.execution import channels_last, compile_network, offload
from perturb.models.videocrafter.spec import ModelSpec
from perturb.models.videocrafter.system import VideoSystem
from perturb.perturbation.lora import LoraPerturbation
from perturb.store.rundir import RunDir
from perturb.study.fit import FitConfig, Setup, fit
from perturb.study.sample import Generator, SampleConfig
from tests.bench.full_size import (
    DEVICE,
    FRAMES,
    GPU,
    HALF,
    HEIGHT,
    SIZE,
    TINY,
    TURNS,
    WIDTH,
    clock,
    diffusers_network,
    in_dtype,
    measured,
    random_system,
)
from tests.bench.turns import by_turns, report

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(not SIZE, reason="needs a GPU; PERTURB_BENCH_SIZE=tiny runs it on a processor"),
]
whole_clips = pytest.mark.skipif(not GPU and not TINY, reason="a clip takes a processor hours")
PROMPT, FPS = "a red circle moving left slowly", 24
STEPS = (1, 2) if TINY else (5, 15)
GOAL_SECONDS, GOAL_MEMORY, GOAL_FIT = 4.5, 8.0, 1.5  # on an H100 or H200: a clip of 50 steps, GiB, times diffusers


@pytest.fixture(scope="module")
def system(tiny_spec: ModelSpec) -> Iterator[VideoSystem]:
    system = random_system(tiny_spec)
    print(f"\n{torch.cuda.get_device_name() if GPU else 'processor'}, torch {torch.__version__}")
    yield system
    system.to("cpu")
    torch.cuda.empty_cache()


def sides(system: VideoSystem, count: int, frames: int = FRAMES) -> tuple[torch.Tensor, torch.Tensor, Conditioning]:
    """Noise, timesteps and conditioning of ``count`` samples, on the device."""
    x = torch.randn(count, *system.latent_shape(frames, HEIGHT, WIDTH), device=DEVICE)
    return x, torch.full((count,), 500, device=DEVICE), system.conditioning([PROMPT] * count, FPS)


@pytest.mark.skipif(not GPU, reason="compares a GPU with the processor")
def test_precisions_agree_with_float32_on_the_cpu(system: VideoSystem):
    """Relative error ‖ε̂ − ε̂_cpu‖/‖ε̂_cpu‖ of one forward pass at 4 frames of 16×16 latents."""
    x, t, cond = torch.randn(1, 4, 4, 16, 16), torch.tensor([500]), system.conditioning([PROMPT], FPS)

    def forward(device: str, dtype: torch.dtype) -> torch.Tensor:
        system.to(device, dtype)
        with torch.no_grad():
            return system.denoise(x.to(device), t.to(device), cond.to(torch.device(device), torch.float32)).cpu()

    weights = {key: value.cpu() for key, value in system.unet.state_dict().items()}
    reference = forward("cpu", torch.float32)
    for name, limit in {"float32": 2e-3, "bfloat16": 0.1, "float16": 0.02}.items():
        error = (forward("cuda", getattr(torch, name)) - reference).norm() / reference.norm()
        print(f"{name:10s} relative error {error:.1e}")
        system.to("cuda", torch.float32)
        system.unet.load_state_dict(weights)
        assert error < limit


@contextmanager
def compiled(system: VideoSystem) -> Iterator[None]:
    """On a processor only taken as a graph: to generate code for it takes minutes."""
    with pytest.MonkeyPatch.context() as patch:
        if not GPU:
            plain = torch.compile
            patch.setattr(torch, "compile", lambda forward, mode, **rest: plain(forward, backend="eager", **rest))
        compile_network(system)
    network: Any = system.unet
    try:
        yield
        assert network.forward.fast is not None, "not compiled: the reason is above"
    finally:
        del network.forward
        torch._dynamo.reset()


@contextmanager
def offloaded(system: VideoSystem) -> Iterator[None]:
    from accelerate.hooks import remove_hook_from_module

    offload(system)
    try:
        yield
    finally:
        for part in system.modules().values():
            remove_hook_from_module(part)
        system.vae.disable_slicing()
        system.to(DEVICE)


@contextmanager
def laid_out(system: VideoSystem) -> Iterator[None]:
    channels_last(system)
    try:
        yield
    finally:
        for kernel in system.unet.parameters():
            kernel.data = kernel.data.contiguous()


Way = Callable[[VideoSystem], Any]
CLIPS: dict[str, tuple[torch.dtype, dict[str, Any], list[Way]]] = {
    "float32": (torch.float32, {}, []),
    "float32 under autocast": (torch.float32, {"precision": "bfloat16"}, []),
    "bfloat16": (torch.bfloat16, {}, []),
    "half": (HALF, {}, []),
    "half, channels last": (HALF, {}, [laid_out]),
    "half, compiled": (HALF, {}, [compiled]),
    "half, offloaded": (HALF, {}, [offloaded]),
    "half, int8": (HALF, {"quantise": "int8"}, []),
    "half, float8": (HALF, {"quantise": "float8"}, []),
    "half, int8, offloaded": (HALF, {"quantise": "int8"}, [offloaded]),
}


@whole_clips
@pytest.mark.parametrize("name", CLIPS)
def test_sampling_one_clip(system: VideoSystem, name: str):
    """With guidance. Two samplers, one with more steps, give the time of a step."""
    dtype, settings, ways = CLIPS[name]
    if "quantise" in settings and find_spec("torchao") is None:
        pytest.skip("not measured: pip install 'perturb[quantise]'")
    form: dict[str, Any] = {"frames": FRAMES, "height": HEIGHT, "width": WIDTH}
    config = SampleConfig(batch_size=1, **form, **settings)
    few, many = STEPS
    with ExitStack() as stack:
        stack.enter_context(in_dtype(system, dtype))
        for way in ways:
            stack.enter_context(way(system))
        seconds, memory, frames = {}, "", np.empty(0)
        for steps in (few, few, many):  # the first one does not count
            generate = Generator(system, DDIMSampler(steps=steps), [Prompt("p", PROMPT)], config, image=None)

            def clip(generate: Generator = generate) -> None:
                nonlocal frames
                frames = generate([(0, 0)], lambda _share: None)

            seconds[steps], memory = measured(clip)
    step = (seconds[many] - seconds[few]) / (many - few)
    rest = seconds[few] - few * step
    print(f"{name} ({dtype}): {step:.3f} s per guided step, {rest:.2f} s for the frames, {50 * step + rest:.1f} s for")
    print(f"  50 steps, {memory} (goals: {GOAL_SECONDS} s in the fastest, {GOAL_MEMORY} GiB in the smallest)")
    assert frames.shape == (1, FRAMES, HEIGHT, WIDTH, 3)


def diffusers_says(network: nn.Module, x: torch.Tensor, t: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """ε̂ of diffusers' network, in float32."""
    dtype = next(network.parameters()).dtype
    return network(x.to(dtype), t, text.to(dtype)).sample.float()


@torch.no_grad()
def test_forward_of_both_sides_of_guidance(system: VideoSystem):
    """By turns: as the published script asks for it, diffusers' network, ours in each precision."""
    x, t, cond = sides(system, 2)
    half = copy.copy(system)
    halves = {id(p): nn.Parameter(p.detach().to(HALF), requires_grad=False) for p in system.unet.parameters()}
    half.unet = copy.deepcopy(system.unet, halves)
    theirs, their_half = diffusers_network(system, FPS), diffusers_network(half, FPS)
    error = system.denoise(x, t, cond) - diffusers_says(theirs, x, t, cond.text)
    assert error.norm() < (1e-2 if GPU else 1e-4) * x.norm()

    def published() -> None:
        with torch.autocast(DEVICE, HALF):
            for side in (0, 1):
                system.denoise(x[side, None], t[:1], cond.index([side]))

    def autocast() -> None:
        with torch.autocast(DEVICE, torch.bfloat16):
            system.denoise(x, t, cond)

    calls = {
        "ours, float32": lambda: system.denoise(x, t, cond),
        "ours, float32 weights under autocast to bfloat16": autocast,
        f"ours, {HALF}": lambda: half.denoise(x, t, cond),
        "float32 weights under autocast, one side after the other": published,
        "diffusers' network, float32": lambda: diffusers_says(theirs, x, t, cond.text),
        f"diffusers' network, {HALF}": lambda: diffusers_says(their_half, x, t, cond.text),
    }
    millions = sum(p.numel() for p in system.unet.parameters()) / 1e6
    what = f"guided forward of {FRAMES} frames of {HEIGHT}×{WIDTH}, {millions:.0f} M weights"
    report(what, by_turns(calls, TURNS, clock))


@whole_clips
@pytest.mark.parametrize("checkpointing", [True, False])
def test_fitting(system: VideoSystem, tmp_path: Path, checkpointing: bool):
    """LoRA on θ_S with the published settings: batches of 8 stills."""
    generator = np.random.default_rng(0)
    for number in range(8):
        pixels = generator.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text(PROMPT)
    config = FitConfig(
        batch_size=8, learning_rate=1e-4, precision="bfloat16", gradient_checkpointing=checkpointing, cache_latents=True
    )
    few, many = STEPS
    seconds, memory = {}, ""
    for steps in STEPS:
        lora, run = LoraPerturbation(rank=4), RunDir(tmp_path / str(steps))

        def whole(steps: int = steps, lora: LoraPerturbation = lora, run: RunDir = run) -> None:
            images = ImageFolder(folder=str(tmp_path))
            setup = Setup(model=system, partition=system.partition(), images=images, config=config)
            fit(setup, lora, group="spatial", probe_steps=[steps], run=run)

        seconds[steps], memory = measured(whole)
        lora.detach()
    step = (seconds[many] - seconds[few]) / (many - few)
    print(f"fit, checkpointing {checkpointing}: {step:.2f} s per step of 8 stills, {memory}")
    assert (tmp_path / str(many) / "adapters").is_dir()


@pytest.mark.parametrize("group", ["spatial", "temporal"])
def test_fitting_step_against_diffusers_and_peft(system: VideoSystem, group: str):
    """By turns: the same LoRA on the same layers of the same weights, the same stills, AdamW."""
    from peft import LoraConfig, inject_adapter_in_model

    from perturb.models.videocrafter.keymap.stable_diffusion import diffusers_keys

    x, t, cond = sides(system, 8 if GPU else 2, frames=1)
    noise = torch.randn_like(x)
    theirs = diffusers_network(system, FPS)
    names = {ours: key.removesuffix(".weight") for key, ours in diffusers_keys(system.unet).items()}
    lora = LoraPerturbation(rank=4)
    lora.attach(system.unet, system.partition(), group, 0)
    layers = [names[f"{layer}.weight"] for layer in lora.factors()]
    inject_adapter_in_model(LoraConfig(r=4, lora_alpha=8, target_modules=layers), theirs)
    moved = [parameter for name, parameter in theirs.named_parameters() if "lora_" in name]
    assert sum(p.numel() for p in moved) == sum(p.numel() for p in lora.parameters())

    def stepping(predict: Callable[[], torch.Tensor], parameters: list[nn.Parameter]) -> Callable[[], None]:
        optimiser = torch.optim.AdamW(parameters, lr=1e-4)

        def step() -> None:
            optimiser.zero_grad()
            with torch.autocast(DEVICE, torch.bfloat16, enabled=GPU):
                loss = (predict().float() - noise).square().mean()
            loss.backward()
            optimiser.step()

        return step

    calls = {
        "diffusers + peft": stepping(partial(diffusers_says, theirs, x, t, cond.text), moved),
        "ours": stepping(lambda: system.denoise(x, t, cond), lora.parameters()),
    }
    try:
        seconds = by_turns(calls, TURNS, clock)
    finally:
        lora.detach()
    what = f"fitting step of {len(x)} stills of {HEIGHT}×{WIDTH}, LoRA on the {group} layers"
    report(f"{what} (goal on a GPU: {GOAL_FIT})", seconds)
