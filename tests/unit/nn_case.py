"""What the tests of the networks share: small sizes, and networks in which every part matters."""

import torch
from torch import nn

B, T, H, W, TEXT, WIDTH = 2, 3, 4, 4, 5, 12


def awake(network: nn.Module) -> nn.Module:
    """The network with small random values where it was zero-initialised, in eval mode."""
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1)
    return network.eval()
