"""The pass-through initialisation: mean colour reaches the latent and comes back, from the first step on."""

import torch
from diffusers import AutoencoderKL

from perturb.models.videocrafter.encoders import build_vae
from perturb.models.videocrafter.nano import NANO
from perturb.nano.autoencoder_init import pass_through


def initialised() -> AutoencoderKL:
    torch.manual_seed(0)
    vae = build_vae(NANO.vae)
    pass_through(vae)
    return vae


@torch.no_grad()
def test_a_brighter_channel_is_brighter_after_the_round_trip() -> None:
    vae = initialised()
    grey = torch.zeros(1, 3, 64, 64)
    for channel in range(3):
        picture = grey.clone()
        picture[:, channel, 16:48, 16:48] = 0.8
        posterior = vae.encode(picture).latent_dist  # pyright: ignore[reportAttributeAccessIssue]
        decoded = vae.decode(posterior.mode()).sample  # pyright: ignore[reportAttributeAccessIssue]
        inside = decoded[0, :, 24:40, 24:40].mean((1, 2)) - decoded[0, :, :8, :8].mean((1, 2))
        assert inside.argmax() == channel


@torch.no_grad()
def test_the_posterior_starts_almost_without_noise() -> None:
    posterior = initialised().encode(torch.rand(2, 3, 64, 64)).latent_dist  # pyright: ignore[reportAttributeAccessIssue]
    torch.testing.assert_close(posterior.std, torch.full_like(posterior.std, 0.0498), atol=1e-3, rtol=0)
