"""The golden fixtures: numbers of the published implementation on tiny random models, found by their kind.

The folder is named by the environment variable PERTURB_PARITY, else it is ``../shared/parity`` beside the checkout.
Every file in it is listed by kind, so that a fixture added to the folder is tested and none is skipped silently.
"""

import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

ROOT = Path(__file__).parents[2]
STATE = "state."


@dataclass(frozen=True)
class Golden:
    """A folder of fixtures: the one that ``variable`` names, else ``../shared/<default>`` beside the checkout."""

    variable: str
    default: str

    def folder(self) -> Path:
        """Where the fixtures lie (perhaps not there: ``required``); a variable that names no folder is an error."""
        named = os.environ.get(self.variable)
        if named and not Path(named).is_dir():
            raise NotADirectoryError(f"{self.variable} names {named}, which is no folder")
        return Path(named) if named else ROOT.parent / "shared" / self.default

    @property
    def required(self) -> pytest.MarkDecorator:
        """Skips tests, saying so, where there are no fixtures."""
        reason = f"no golden fixtures at {self.folder()}; set {self.variable} to their folder"
        return pytest.mark.skipif(not self.folder().is_dir(), reason=reason)

    def fixture(self, name: str) -> "Fixture":
        """The fixture called ``name``."""
        return Fixture(name, json.loads((self.folder() / f"{name}.json").read_text(encoding="utf-8")), self.folder())

    def all(self) -> list["Fixture"]:
        return [self.fixture(path.stem) for path in sorted(self.folder().glob("*.json"))]

    def fixtures(self, kind: str) -> list["Fixture"]:
        """All fixtures of one kind, by name."""
        return [golden for golden in self.all() if golden.kind == kind]

    def kinds(self) -> dict[str, list[str]]:
        """Every kind in the folder → the names of its fixtures."""
        table: dict[str, list[str]] = {}
        for golden in self.all():
            table.setdefault(golden.kind, []).append(golden.name)
        return table


@dataclass(frozen=True)
class Fixture:
    """One fixture: its description (``meta``), and its tensors when it has some."""

    name: str
    meta: dict[str, Any]
    folder: Path

    def __str__(self) -> str:
        return self.name

    @property
    def kind(self) -> str:
        return self.meta.get("kind", "?")

    @property
    def calls(self) -> list[dict[str, Any]]:
        return self.meta.get("calls", [])

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        path = self.folder / f"{self.name}.safetensors"
        return load_file(path) if path.is_file() else {}

    @property
    def state(self) -> dict[str, Tensor]:
        """The official weights under their official names (no checkpoint prefix), as the float32 they were run in."""
        return {key.removeprefix(STATE): v.float() for key, v in self.tensors.items() if key.startswith(STATE)}

    def given(self, name: str) -> Tensor:
        """Input ``in.<name>``."""
        return self.tensors[f"in.{name}"]

    def expected(self, name: str) -> Tensor:
        """Output ``out.<name>``."""
        return self.tensors[f"out.{name}"]

    def outputs(self, prefix: str = "") -> list[str]:
        """Names (without ``out.``) of all stored outputs that start with ``prefix``."""
        return sorted(k.removeprefix("out.") for k in self.tensors if k.startswith(f"out.{prefix}"))

    def call_of(self, output: str) -> str:
        """The name of the call that ``output`` belongs to (names may hold dots: the longest that fits), "" for none."""
        names = [call["name"] for call in self.calls if output.startswith(f"{call['name']}.")]
        return max(names, key=len, default="")

    def tolerance(self, name: str) -> float:
        """The absolute tolerance that the fixture itself suggests for output ``name``."""
        entries = self.meta["tolerance"]["per_output"]
        return entries[name if name in entries else f"out.{name}"]["suggested_atol"]

    def check(self, name: str, actual: Tensor) -> None:
        """Compare with output ``name`` within its tolerance; integers and shapes exactly, 8-bit pixels to one level."""
        expected = self.expected(name)
        assert actual.shape == expected.shape, f"{self.name} {name}: {tuple(actual.shape)}, not {tuple(expected.shape)}"
        if expected.dtype == torch.uint8:  # truncation to 8 bits may fall on either side of a boundary
            assert (actual.int() - expected.int()).abs().max() <= 1, f"{self.name} {name}: more than one level off"
            return
        if not expected.is_floating_point():
            assert torch.equal(actual.to(expected.dtype), expected), f"{self.name} {name}"
            return
        error = (actual.double() - expected.double()).abs().max().item()
        allowed = self.tolerance(name)
        assert error <= allowed, f"{self.name} {name}: max error {error:.3g} > {allowed:.3g}"


PARITY = Golden("PERTURB_PARITY", "parity")
folder, fixture, fixtures, kinds = PARITY.folder, PARITY.fixture, PARITY.fixtures, PARITY.kinds
requires_fixtures = PARITY.required
