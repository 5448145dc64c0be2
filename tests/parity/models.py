"""Our models with the weights of golden fixtures, and a ledger that sees to it that every stored output is compared."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from perturb.diffusion import NoiseSchedule
from perturb.diffusion.schedule import SCALE_STEPS
from perturb.models.videocrafter.encoders import (
    ImageEncoder,
    TextEncoder,
    build_image_encoder,
    build_image_projector,
    build_text_encoder,
    build_vae,
)
from perturb.models.videocrafter.keymap.encoders import Rule, convert_to_ours, image_rules, text_rules, vae_rules
from perturb.models.videocrafter.keymap.unet import (
    PROJECTOR_PREFIX,
    UNET_PREFIX,
    projector_official_to_ours,
    unet_official_to_ours,
)
from perturb.models.videocrafter.published import get_spec
from perturb.models.videocrafter.spec import ImageSpec, ModelSpec, ResamplerSpec, ScheduleSpec, TextSpec, VAESpec
from perturb.models.videocrafter.system import VideoSystem
from perturb.models.videocrafter.tokenizer import ClipTokenizer, Tokenizer
from perturb.nn import Resampler, VideoUNet
from tests.parity.fixtures import Fixture, fixture
from tests.parity.networks import build_unet, unet_spec

M = TypeVar("M", bound=nn.Module)
S = TypeVar("S")

DIFFUSION = {
    "timesteps": 1000,
    "linear_start": 0.00085,
    "linear_end": 0.012,
    "use_scale": False,
    "scale_b": 0.3,
    "fix_scale_bug": False,
}
"""Official defaults of what a fixture's diffusion settings may leave out (NOTES.md of the fixtures)."""
ONE_VALUE = {
    "beta_schedule": "linear",
    "parameterization": "eps",
    "rescale_betas_zero_snr": False,
    "given_betas": None,
    "scale_a": 1,
    "mid_step": SCALE_STEPS,
}
"""Official settings of which our schedule, or this harness, has one value."""


class Ledger:
    """Compares outputs of a fixture and remembers which; ``close`` fails when one was left out."""

    def __init__(self, golden: Fixture) -> None:
        self.golden, self.seen = golden, set[str]()

    def check(self, name: str, actual: Tensor) -> None:
        self.golden.check(name, actual)
        self.seen.add(name)

    def relative(self, name: str, actual: Tensor, rtol: float) -> None:
        """For fixtures whose tolerance is a relative one (of the largest value, and of each value)."""
        expected = self.golden.expected(name).double()
        torch.testing.assert_close(actual.double(), expected, rtol=rtol, atol=1e-7 * expected.abs().max().item())
        self.seen.add(name)

    def close(self, prefix: str = "") -> None:
        """Every output (of the call that ``prefix`` names, with a dot at its end) must have been compared."""
        mine = (name for name in self.golden.outputs(prefix) if f"{self.golden.call_of(name)}." == prefix or not prefix)
        left = set(mine) - self.seen
        assert not left, f"{self.golden} has outputs that no test compares: {sorted(left)}"


def schedule_spec(diffusion: Mapping[str, Any]) -> ScheduleSpec:
    """The schedule of official diffusion settings; one that we do not know, or do not have in that value, fails."""
    for name, value in diffusion.items():
        assert name in DIFFUSION or (name in ONE_VALUE and value == ONE_VALUE[name]), f"{name} = {value}: not supported"
    given = DIFFUSION | dict(diffusion)
    steps = given["timesteps"]
    return ScheduleSpec(
        timesteps=steps,
        beta_start=given["linear_start"],
        beta_end=given["linear_end"],
        latent_scale=given["scale_b"] if given["use_scale"] else None,
        # the published table is longer than what is read of it, unless that is mended
        scale_table_length=(steps if given["fix_scale_bug"] else steps + SCALE_STEPS) if given["use_scale"] else None,
    )


def schedule(diffusion: Mapping[str, Any], *, scaled: bool = True) -> NoiseSchedule:
    """Our schedule of these settings; without the latent scale where a published helper leaves it out."""
    spec = schedule_spec(diffusion)
    return NoiseSchedule(
        timesteps=spec.timesteps,
        beta_start=spec.beta_start,
        beta_end=spec.beta_end,
        latent_scale=spec.latent_scale if scaled else None,
    )


def load_unet(name: str) -> tuple[VideoUNet, dict[str, str]]:
    """The network of fixture ``name`` and the map from official key (no prefix) to parameter name."""
    golden = fixture(name)
    names = unet_official_to_ours(unet_spec(golden.meta["config"]))
    return build_unet(golden), {key.removeprefix(UNET_PREFIX): ours for key, ours in names.items()}


def vae_spec(golden: Fixture) -> VAESpec:
    size = golden.meta["config"]["ddconfig"]
    return VAESpec(
        block_out_channels=tuple(size["ch"] * factor for factor in size["ch_mult"]),
        layers_per_block=size["num_res_blocks"],
        latent_channels=size["z_channels"],
        scale_factor=golden.meta["scale_factor"],
    )


def load_vae(golden: Fixture) -> Any:
    return filled(build_vae, vae_spec(golden), vae_rules, golden.state)


def vae_system(golden: Fixture) -> VideoSystem:
    """A system of which only the autoencoder is real."""
    blank: Any = nn.Linear(1, 1)
    spec = dataclasses.replace(get_spec("t2v_512_v2"), vae=vae_spec(golden))
    return VideoSystem(spec=spec, unet=blank, vae=load_vae(golden), text_encoder=blank, tokenizer=ClipTokenizer())


def text_spec(golden: Fixture, skip_last: int = 1) -> TextSpec:
    config = golden.meta["config"]["open_clip_model_config"]
    size = config["text_cfg"]
    return TextSpec(
        width=size["width"],
        heads=size["heads"],
        layers=size["layers"],
        vocab_size=size["vocab_size"],
        tokens=size["context_length"],
        embed_dim=config["embed_dim"],
        skip_last=skip_last,
        tokenizer="clip",
    )


def load_text(golden: Fixture, skip_last: int = 1) -> TextEncoder:
    return filled(build_text_encoder, text_spec(golden, skip_last), text_rules, golden.state)


def projector_spec(config: Mapping[str, Any]) -> ResamplerSpec:
    names = {"head_dim": "dim_head"}
    fields = ResamplerSpec.__dataclass_fields__
    return ResamplerSpec(**{field: config[names.get(field, field)] for field in fields})


def image_spec(golden: Fixture, projector: Fixture | None = None) -> ImageSpec:
    config = golden.meta["config"]["open_clip_model_config"]
    size, text = config["vision_cfg"], config["text_cfg"]
    resampler = (projector or fixture("resampler")).meta["config"]["Resampler"]
    return ImageSpec(
        width=size["width"],
        layers=size["layers"],
        head_width=size["head_width"],
        patch_size=size["patch_size"],
        image_size=size["image_size"],
        embed_dim=config["embed_dim"],
        text_width=text["width"],
        text_tokens=text["context_length"],
        vocab_size=text["vocab_size"],
        projector=projector_spec(resampler),
    )


def load_image(golden: Fixture, projector: Fixture | None = None) -> ImageEncoder:
    return filled(build_image_encoder, image_spec(golden, projector), image_rules, golden.state)


def load_projector(golden: Fixture, spec: ImageSpec) -> Resampler:
    keys = projector_official_to_ours(spec.projector)
    projector = build_image_projector(spec)
    prefix = "resampler."
    weights = {key.removeprefix(prefix): v for key, v in golden.state.items() if key.startswith(prefix)}
    projector.load_state_dict({keys[PROJECTOR_PREFIX + key]: v for key, v in weights.items()}, strict=True)
    return projector


def filled(build: Callable[[S], M], spec: S, rules: Callable[[S], tuple[Rule, ...]], state: Mapping[str, Tensor]) -> M:
    """A model built from ``spec`` with the official ``state``."""
    model = build(spec)
    model.load_state_dict(convert_to_ours(state, rules(spec)), strict=True)
    return model


def load_system(state_from: Mapping[str, str], diffusion: Mapping[str, Any], tokenizer: Tokenizer) -> VideoSystem:
    """The complete system whose parts are the fixtures that ``state_from`` names."""
    text, vae = fixture(state_from["text"]), fixture(state_from["vae"])
    unet = fixture(state_from["unet"])
    spec = ModelSpec(
        name=unet.name,
        unet=unet_spec(unet.meta["config"]),
        vae=vae_spec(vae),
        text=text_spec(text),
        schedule=schedule_spec(diffusion),
        sampling=get_spec("t2v_512_v2").sampling,
    )
    encoder = projector = None
    if "image" in state_from:
        image, resampler = fixture(state_from["image"]), fixture(state_from["resampler"])
        spec = dataclasses.replace(spec, image=image_spec(image, resampler))
        assert spec.image is not None
        encoder, projector = load_image(image, resampler), load_projector(resampler, spec.image)
    return VideoSystem(
        spec=spec,
        unet=load_unet(unet.name)[0],
        vae=load_vae(vae),
        text_encoder=load_text(text),
        tokenizer=tokenizer,
        image_encoder=encoder,
        image_projector=projector,
    )
