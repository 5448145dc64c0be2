"""An initialisation under which a convolutional autoencoder already passes a blurred picture through.

From torch's default initialisation a narrow KL autoencoder learns luma in minutes and colour only in hours: colour is
small in the data and smaller in the gradient. Here every residual branch starts at zero, every resampling and shortcut
convolution starts as the identity (an average where it halves the picture), and the first channels carry the picture
itself. Source: the idea is that of Dirac initialisation (Zagoruyko and Komodakis 2017, arXiv 1706.00388).
"""

import torch
from diffusers import AutoencoderKL
from diffusers.models.attention_processor import Attention
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import nn

LOG_VARIANCE = -6.0  # of the posterior at the start: little noise until there is something to say


@torch.no_grad()
def pass_through(vae: AutoencoderKL) -> None:
    """Initialise ``vae`` in place so that mean colour passes from picture to latent and back."""
    for module in vae.modules():
        if isinstance(module, ResnetBlock2D):
            nn.init.zeros_(module.conv2.weight)
            if module.conv_shortcut is not None:
                _identity(module.conv_shortcut)
        elif isinstance(module, Attention):
            nn.init.zeros_(module.to_out[0].weight)  # pyright: ignore[reportIndexIssue, reportArgumentType, reportOptionalSubscript]
        elif isinstance(module, Downsample2D):
            _average(module.conv)  # pyright: ignore[reportArgumentType]
        elif isinstance(module, Upsample2D):
            _identity(module.conv)  # pyright: ignore[reportArgumentType]
    for conv in (vae.encoder.conv_in, vae.encoder.conv_out, vae.decoder.conv_in, vae.decoder.conv_out):
        _carry(conv)
    latent = vae.encoder.conv_out.out_channels // 2
    _identity(vae.quant_conv)  # pyright: ignore[reportArgumentType]
    _identity(vae.post_quant_conv)  # pyright: ignore[reportArgumentType]
    vae.encoder.conv_out.weight[latent:] = 0
    assert vae.encoder.conv_out.bias is not None
    vae.encoder.conv_out.bias[latent:] = LOG_VARIANCE


def _identity(conv: nn.Conv2d) -> None:
    """Channel i of the output is channel i of the input."""
    nn.init.dirac_(conv.weight)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)


def _average(conv: nn.Conv2d) -> None:
    """Channel i of the output is the mean of channel i over the 2×2 pixels that it covers."""
    _identity(conv)
    weight = conv.weight
    centre = torch.eye(*weight.shape[:2]) / 4
    weight.zero_()
    weight[:, :, :2, :2] = centre[:, :, None, None]


def _carry(conv: nn.Conv2d, channels: int = 3) -> None:
    """The first channels pass unchanged; the others keep their random weights but hear nothing they would drown."""
    middle = conv.kernel_size[0] // 2
    conv.weight[:channels] = 0
    for channel in range(channels):
        conv.weight[channel, channel, middle, middle] = 1
