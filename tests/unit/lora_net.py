"""What the LoRA tests share: a small network with every kind of layer in two groups."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from perturb.perturbation import LoraPerturbation


class Block(nn.Module):
    """Every kind of layer, in two groups whose layers have the same last names; one of them is another's suffix."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.point = nn.Conv2d(4, 4, 1, bias=False)
        self.sequence = nn.Conv1d(4, 6, 1)
        self.volume = nn.Conv3d(4, 4, (3, 1, 1), padding=(1, 0, 0))
        self.frames = nn.Conv3d(4, 4, (1, 1, 3), padding=(0, 0, 1))
        self.project = nn.Linear(6, 5)
        self.table = nn.Parameter(torch.randn(7, 2))
        self.register_buffer("counter", torch.arange(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.point(self.conv(x)) + self.table.sum()
        x = self.frames(self.volume(x[:, :, None]))[:, :, 0]
        return self.project(self.sequence(x.flatten(2)).transpose(1, 2))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.outer = Block()
        self.conv = nn.Conv2d(3, 3, 1)
        self.inner = nn.ModuleDict({"outer": Block()})

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.outer(x) + self.inner["outer"](x)


NAMES = ("conv", "point", "sequence", "volume", "frames", "project")


@dataclass
class Groups:
    """Stands in for a Partition."""

    tables: dict[str, tuple[str, ...]]

    def layers(self, group: str) -> tuple[str, ...]:
        return self.tables[group]

    def unreachable(self, group: str) -> tuple[str, ...]:
        return ("outer.table",) if group == "first" else ()


GROUPS = Groups(
    {
        "first": ("conv", *(f"outer.{name}" for name in NAMES)),
        "second": tuple(f"inner.outer.{name}" for name in NAMES),
    }
)


def frozen_net() -> Net:
    """In eval mode and frozen: matmul looks at requires_grad when it picks a kernel, and kernels round differently."""
    torch.manual_seed(0)
    return Net().eval().requires_grad_(False)


def example() -> Tensor:
    return torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(1))


def attached(net: nn.Module, group: str = "first", **settings) -> LoraPerturbation:
    lora = LoraPerturbation(**settings)
    lora.attach(net, GROUPS, group, 0)  # pyright: ignore[reportArgumentType]
    return lora


def randomise(lora: LoraPerturbation) -> None:
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in lora.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
