"""Tables and pages of experiments/, and whether a page says the numbers that a table gives.

A claim is a piece of a README with # for every number, and what each of them should be. Numbers are compared to the
digits that are printed.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2] / "experiments"
NUMBER = r"([+−]?(?:\d+(?:\.\d+)?|\.\d+))"
Claim = tuple[str, Sequence[float]]


def table(name: str) -> Any:  # a frame, whose columns no type knows
    return pd.read_csv(ROOT / name, keep_default_na=False, na_values=[""], low_memory=False)


def readme(folder: str) -> str:
    return " ".join((ROOT / folder / "README.md").read_text(encoding="utf-8").split())


def says(folder: str, claim: Claim) -> None:
    """Find the claim in the README of a folder and compare its numbers with those computed."""
    text, computed = claim
    found = re.search(NUMBER.join(map(re.escape, text.split("#"))), readme(folder))
    assert found, f"{folder}/README.md does not say: {text}"
    for printed, value in zip(found.groups(), computed, strict=True):
        decimals = len(printed.partition(".")[2])
        # half a digit, and what six printed digits of a csv leave out
        assert float(printed.replace("−", "-")) == pytest.approx(value, abs=0.5001 * 10**-decimals + 2e-6), (
            text,
            value,
        )
