"""Does a state dict fit a model, and if not: what is missing, too much or no weight, and which model does it fit?"""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from perturb.errors import UserError
from perturb.models.videocrafter.keymap import EXTRA, PREFIXES, Components, expected_keys
from perturb.models.videocrafter.keymap.diffusion import SCHEDULE_TABLES, diffusion_buffers
from perturb.models.videocrafter.published import SPECS
from perturb.models.videocrafter.spec import ModelSpec
from perturb.store.tensors import non_finite

Shape = tuple[int, ...]
LISTED = 10  # keys shown of each kind
STORED = (torch.float32, torch.float16, torch.bfloat16, torch.float64)  # anything else is quantised or no weight


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, Shape]:
    """Key → shape."""
    return {key: tuple(tensor.shape) for key, tensor in tensors.items()}


def differences(given: Mapping[str, Shape], expected: Mapping[str, Shape]) -> str:
    """A readable list of every kind of misfit, or "" when both sides have the same keys with the same shapes."""
    missing = {key: f"{key}  {list(shape)}" for key, shape in expected.items() if key not in given}
    unexpected = {key: f"{key}  {list(shape)}" for key, shape in given.items() if key not in expected}
    misshapen = {
        key: f"{key}  given {list(given[key])}, wanted {list(shape)}"
        for key, shape in expected.items()
        if key in given and given[key] != shape
    }
    named = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
    return "\n".join(_section(title, lines) for title, lines in named.items() if lines)


def check_official(given: Mapping[str, Shape], spec: ModelSpec, path: object) -> None:
    """Raise ``UserError`` unless the official state dict at ``path`` has exactly the keys and shapes of ``spec``."""
    listing = differences(given, expected_keys(spec))
    if listing:
        advice = _advice(given, spec)
        raise UserError(f"{path} does not fit {spec.name} ({len(given)} keys in the file):\n{listing}\n{advice}")


def check_finite(components: Components, checkpoint: str | Path) -> None:
    """Raise UserError when a tensor holds NaN or infinity."""
    bad = [f"{name}.{key}" for name, tensors in components.items() for key in non_finite(tensors)]
    if bad:
        more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise UserError(
            f"{checkpoint}: {len(bad)} tensors hold NaN or infinity: {', '.join(bad[:5])}{more}; such a model gives "
            "only noise. Get the file again, or pass expect_finite=False to load it all the same"
        )


def check_dtypes(components: Components, path: Path) -> None:
    """Raise UserError for tensors that are no plain weights, such as quantised ones."""
    strange = {
        f"{name}.{key}": str(tensor.dtype).removeprefix("torch.")
        for name, tensors in components.items()
        for key, tensor in tensors.items()
        if tensor.dtype not in STORED
    }
    if strange:
        key, dtype = next(iter(strange.items()))
        allowed = ", ".join(str(each).removeprefix("torch.") for each in STORED)
        raise UserError(
            f"{path}: {len(strange)} tensors are no plain weights, e.g. {key} is {dtype}; allowed: {allowed}"
        )


def check_schedule(components: Components, spec: ModelSpec, path: Path) -> None:
    """Raise UserError unless the noise tables in the file, if any, are those of ``spec``."""
    tables = diffusion_buffers(spec.schedule)
    for name in SCHEDULE_TABLES:
        given = components[EXTRA].get(name)
        if given is None or name not in tables:
            continue
        wanted = tables[name]
        tolerance = max(1e-5, 2 * torch.finfo(given.dtype).eps)  # half-precision files hold half-precision tables
        wrong = ~((given.float() - wanted).abs() <= tolerance * wanted.abs())
        if wrong.any():
            t = int(wrong.nonzero()[0])
            raise UserError(
                f"{path} was trained with another noise schedule than {spec.name}: {name}[{t}] is "
                f"{given[t].item():.6g} in the file and {wanted[t].item():.6g} in the spec; give the spec that fits"
            )


def recognise(given: Mapping[str, Shape]) -> list[ModelSpec]:
    """The published models whose keys and shapes are exactly these: none, one, or some that differ in use alone."""
    return [spec for spec in SPECS.values() if expected_keys(spec) == given]


def fit(given: Mapping[str, Shape], spec: ModelSpec) -> float:
    """Keys that agree in name and shape, over the keys of either side: 1 is a perfect fit, 0 is another world."""
    expected = expected_keys(spec)
    return len(given.items() & expected.items()) / max(len(given.keys() | expected.keys()), 1)


def nearest(given: Mapping[str, Shape]) -> tuple[str, float]:
    """The published model that fits best, and how well."""
    return max(((name, fit(given, spec)) for name, spec in SPECS.items()), key=lambda pair: pair[1])


def _advice(given: Mapping[str, Shape], spec: ModelSpec) -> str:
    name, score = nearest(given)
    if score < 0.5 or score <= fit(given, spec):
        return "No published model fits it better; is the file whole, and is it a VideoCrafter checkpoint?"
    exactly = "is exactly" if score == 1 else f"looks like (fits {score:.0%} of the keys of)"
    return f"This {exactly} {name}: pass system.spec={name}"


def _section(title: str, lines: Mapping[str, str]) -> str:
    groups = ", ".join(f"{count} in {name}" for name, count in _grouped(lines).most_common())
    shown = [f"    {line}" for line in list(lines.values())[:LISTED]]
    if len(lines) > LISTED:
        shown.append(f"    … and {len(lines) - LISTED} more")
    return "\n".join([f"  {len(lines)} {title} ({groups}):", *shown])


def _grouped(keys: Iterable[str]) -> Counter[str]:
    """How many keys there are under each component's prefix, or else under each first name."""
    prefixes = PREFIXES.values()
    return Counter(next((p for p in prefixes if key.startswith(p)), key.split(".")[0]).rstrip(".") for key in keys)
