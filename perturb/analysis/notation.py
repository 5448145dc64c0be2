"""A run in the field's notation: M_F' = (θ_T, θ_S + Δ_S) and its relatives."""

import re
from pathlib import PurePosixPath, PureWindowsPath

from perturb.store.records import Manifest

_MODEL = {"full": "F", "partial": "P", "image": "I"}
_KIND = {
    "lora": "LoRA",
    "direct": "direct fine-tuning",
    "random": "random Δ of the same norm",
    "trained": "fine-tuning",
    "landscape": "two LoRAs at scales",
    "ablation": "LoRA in parts",
    "adapters": "given adapters",
}
_STILLS = {"single_frame": "stills as videos of one frame", "repeat": "stills repeated to {frames} frames"}
_WORDS = {"full": "fully trained model", "partial": "partially trained model", "image": "image model"}


def formula(training: str, group: str) -> str:
    """Mathtext of the perturbed model: its letter, and one prime for a spatial, two for a temporal Δ, three for both.

    Any other group is written θ + Δ with its name. A θ_S that video training left at its image-model values is θ_S⁰.
    """
    letter = _MODEL.get(training, "?")
    space = r"\theta_S" if training == "full" else r"\theta_S^{\,0}"
    if group == "both":
        return rf"$M_{letter}''' = (\theta_T + \Delta_T,\ {space} + \Delta_S)$"
    if group == "temporal":
        return rf"$M_{letter}'' = (\theta_T + \Delta_T,\ {space})$"
    if group == "spatial":
        return rf"$M_{letter}' = (\theta_T,\ {space} + \Delta_S)$"
    return rf"$M_{letter}^\ast = \theta + \Delta_{{\mathrm{{{group}}}}}$"


def plain_formula(training: str, group: str) -> str:
    """`formula` for a terminal.

    >>> plain_formula("partial", "spatial"), plain_formula("full", "temporal")
    ("M_P' = (θ_T, θ_S⁰ + Δ_S)", "M_F'' = (θ_T + Δ_T, θ_S)")
    >>> plain_formula("full", "both")
    "M_F''' = (θ_T + Δ_T, θ_S + Δ_S)"
    >>> plain_formula("full", "late")
    'M_F* = θ + Δ_late'
    """
    text = formula(training, group).strip("$")
    for mathtext, plain in ((r"\theta", "θ"), (r"\Delta", "Δ"), (r"^{\,0}", "⁰"), (r"^\ast", "*"), ("\\ ", " ")):
        text = text.replace(mathtext, plain)
    return text.replace(rf"{{\mathrm{{{group}}}}}", group)


def in_words(training: str, group: str) -> str:
    """One phrase.

    >>> in_words("full", "spatial")
    'spatial perturbation of the fully trained model'
    """
    where = "spatial and temporal" if group == "both" else group
    return f"{where} perturbation of the {model_in_words(training)}"


def model_in_words(training: str) -> str:
    """``fully trained model``."""
    return _WORDS.get(training, f"{training} model")


def symbol(training: str, group: str) -> str:
    """The perturbed model's letter alone.

    >>> symbol("full", "spatial")
    "M_F'"
    """
    return plain_formula(training, group).split(" ")[0]


def title(manifest: Manifest) -> str:
    """What was run, on which model, with which kind of Δ: ``spatial_full · nano · LoRA``."""
    kind = str(manifest.perturbation.get("kind", "unnamed perturbation"))
    model = str(manifest.system.get("spec", "unnamed model"))
    return " · ".join([manifest.experiment or manifest.run_id, model, _KIND.get(kind, kind)])


def origin(manifest: Manifest) -> str:
    """Where Δ came from: the seed, and a control's reference run, or a training's recipe, or the policy for stills.

    >>> origin(Manifest(perturbation={"seed": 2}, images={"as_video": "repeat", "frames": 8}))
    'seed 2, stills repeated to 8 frames'
    >>> origin(Manifest(perturbation={"seed": 0, "reference": {"run": "0123456789"}}))
    'seed 0, norms of run 0123456789'
    >>> origin(Manifest(perturbation={"seed": 0, "recipe": "direct_spatial"}))
    'seed 0, recipe direct_spatial'
    """
    perturbation, images = manifest.perturbation, manifest.images
    if reference := perturbation.get("reference"):
        source = f"norms of run {reference['run']}"
    elif recipe := perturbation.get("recipe"):
        source = f"recipe {recipe}"
    else:
        source = _STILLS.get(images.get("as_video", ""), "stills").format(frames=images.get("frames"))
    return f"seed {perturbation.get('seed', 'unknown')}, {source}"


def leaf(path: object) -> str:
    """A path cut to its last part where it is absolute: folders may have spaces, which no pattern can tell from text.

    >>> leaf("/home/me/my models/model.ckpt"), leaf("package:weights/nano/full")
    ('model.ckpt', 'package:weights/nano/full')
    """
    text = str(path)
    absolute = PurePosixPath(text).is_absolute() or PureWindowsPath(text).is_absolute()
    return re.split(r"[/\\]", text)[-1] if absolute else text
