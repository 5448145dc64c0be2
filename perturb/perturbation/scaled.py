"""Fitted LoRAs at scales: each state says how much of Δ every part of the network keeps.

    θ_l + f_l(state) Δ_l,   f_l = Σ of the scales of the parts that layer l is in

An index of settings says what the states are, and one class walks any of them, as TransformerLens' generic patching
does (transformer_lens/patching.py). `landscape` and `ablation` are two such indices; every conf/ file may name its own.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from perturb.errors import UserError
from perturb.models.partition import Partition
from perturb.perturbation import files
from perturb.perturbation.anatomy import Place, anatomy
from perturb.perturbation.base import BOTH, Fit, refuse_second
from perturb.perturbation.delegating import Given
from perturb.perturbation.lora import LoraPerturbation
from perturb.perturbation.reference import Reference
from perturb.store.paths import resolve
from perturb.store.rundir import RunDir
from perturb.store.states import Coordinate, State
from perturb.structured import check_range

NONE = "none"


@dataclass(frozen=True)
class Setting:
    """One row of an index: the coordinates of a state, and the scale of Δ in each part of the network (else 0).

    A part is one or more of a layer's names (`Place.names`, or the layer's group), all of which must hold: "spatial",
    "all", "down", "attention", "down attention", "up.0 convolution", "query".
    """

    coordinates: Mapping[str, Coordinate]
    scales: Mapping[str, float]


class ScaledPerturbation(Given[LoraPerturbation]):
    """The LoRAs that ``sources`` had at their probe step ``step``, together as one, in the states of an index.

    ``sources``: group → finished run; where it is None, ``lora`` is fitted on that group for ``step`` steps before
    (`prepare`). The first setting must be Δ = 0. ``kind`` is how the manifest calls it. Nothing else is trained.
    """

    def __init__(
        self,
        kind: str,
        settings: Sequence[Setting],
        *,
        sources: Mapping[str, Reference | None],
        step: int,
        lora: LoraPerturbation | None = None,
    ) -> None:
        super().__init__()
        check_range("perturbation.step", step, low=1)
        self.kind, self.step, self.lora = kind, step, lora
        self.settings = {State.of(setting.coordinates).id: setting for setting in settings}
        if len(self.settings) < len(settings):
            raise UserError(
                f"the {kind} has {len(settings)} states and only {len(self.settings)} names for them: scales that are "
                "alike to six digits, or a part that is given twice; leave one out"
            )
        self.sources = dict(sources)
        self._fitted: dict[str, Tensor] = {}
        self._places: dict[str, Place] = {}  # of the layers that the sources perturbed
        self._names: dict[str, set[str]] = {}  # what each of them is called

    def states(self) -> list[State]:
        """One per setting, in the order of the index."""
        return [State.of(setting.coordinates) for setting in self.settings.values()]

    @property
    def references(self) -> dict[str, Reference]:
        """The runs that Δ comes from, by group; only those that are there."""
        return {group: reference for group, reference in self.sources.items() if reference is not None}

    @property
    def missing(self) -> list[str]:
        """The groups that are still to be fitted."""
        return [group for group, reference in self.sources.items() if reference is None]

    def prepare(self, fit: Fit) -> None:
        """Have fitted what is `missing`. Raises UserError for a source that is given and of another group."""
        for part, reference in self.references.items() if self.missing else ():
            reference.check_group(part, "give a run of that group")
        for group in self.missing:
            assert self.lora is not None
            self.sources[group] = Reference(f"perturbation.{group}", fit(self.lora, group, (0, self.step)))
            self.lora.detach()

    def check(self, base: Mapping[str, Any]) -> None:
        """Raise UserError unless every source is a finished run of the model whose components have these hashes."""
        for reference in self.references.values():
            reference.steps()  # raises when it is not finished
            reference.check_model(base)

    def attach(self, unet: nn.Module, partition: Partition, group: str, seed: int) -> None:
        """Attach the sources' LoRAs as one, in the first state; while any is `missing`, a fresh LoRA (for a plan).

        Raises UserError when something is attached already, for sources that are no finished LoRA runs, were fitted
        with another seed, have no adapter of ``step``, or do not fit this network or each other, and for a part
        without any layer that they perturbed.
        """
        refuse_second(unet, self._delegate)
        if self.missing and self.lora is not None:
            self.lora.attach(unet, partition, group, seed)
            self._delegate = self.lora
            return
        folders = [each.adapter(self.step, "perturbation.step") for each in self.references.values()]
        self._check_groups(group)
        self._find_places(unet, partition, *folders)
        for reference in self.references.values():
            reference.check_seed(seed)
        lora = LoraPerturbation.restore(unet, folders[0], *folders[1:])
        for factor in lora.parameters():
            factor.requires_grad_(False)
        self._delegate = lora
        self._fitted = {layer: b.detach().clone() for layer, (_, b) in lora.factors().items()}
        self.at(self.states()[0])

    @torch.no_grad()
    def at(self, state: State) -> None:
        """Set Δ to that of a state, and α to 1: exact where a scale is 0, 1 or a power of 2."""
        lora, scales = self._attached(), self.settings[state.id].scales
        for layer, (_, b) in lora.factors().items():
            share = sum(scale for part, scale in scales.items() if in_part(self._names[layer], part))
            b.copy_(share * self._fitted[layer])
        lora.scale(1.0)

    def parameters(self) -> list[nn.Parameter]:
        """What is still to be fitted, none as soon as all sources are there."""
        return self._attached().parameters() if self.missing else []

    def describe(self) -> dict[str, Any]:
        """For the manifest: the runs that Δ comes from, what it moves and where; ``fit_steps`` while any is missing."""
        described = {**self._attached().describe(), "kind": self.kind, "step": self.step}
        if self.missing:
            return {**described, "fit_steps": len(self.missing) * self.step}
        sources = {
            group: {**reference.origin(), "as_video": reference.run.manifest().images.get("as_video")}
            for group, reference in self.references.items()
        }
        places = {
            layer: {"block": place.block, "level": place.level, "kind": place.kind, "role": place.role}
            for layer, place in self._places.items()
        }
        return {**described, "sources": sources, "places": places}

    def _check_groups(self, group: str) -> None:
        if len(self.references) == 1:
            (reference,) = self.references.values()
            reference.check_group(group, "set experiment, group and system to those of that run")
            return
        if group != BOTH:
            raise UserError(f"a {self.kind} perturbs space and time together, and group is {group!r}: set group={BOTH}")
        for part, reference in self.references.items():
            reference.check_group(part, "give a run of that group")

    def _find_places(self, unet: nn.Module, partition: Partition, *folders: Path) -> None:
        """Keep what `at` has to know of the network, to which nothing is attached yet."""
        perturbed = files.read(*folders).factors
        groups = {layer: group for group, layers in partition.modules.items() for layer in layers}
        self._places = {layer: place for layer, place in anatomy(unet).items() if layer in perturbed}
        self._names = {layer: place.names | {groups[layer]} for layer, place in self._places.items()}
        for part in dict.fromkeys(part for setting in self.settings.values() for part in setting.scales):
            if not any(in_part(names, part) for names in self._names.values()):
                known, runs = sorted(set().union(*self._names.values())), map(str, self.references.values())
                raise UserError(
                    f"{', '.join(runs)} perturbed no layer that is {part!r}; its layers are called "
                    f"{', '.join(known)} (several names narrow a part down, as in 'down attention')"
                )


def landscape(
    *,
    spatial_scales: Sequence[float],
    temporal_scales: Sequence[float],
    step: int,
    lora: LoraPerturbation,
    spatial: str | None = None,
    temporal: str | None = None,
) -> ScaledPerturbation:
    """Space and time together: θ_S + α_S Δ_S and θ_T + α_T Δ_T at every pair of scales, α_T running fastest.

    ``spatial`` and ``temporal`` are finished runs, <runs>/<experiment>/<run id>; where one is None, ``lora`` is fitted.
    Raises UserError for scales that do not rise from 0.
    """
    _check_scales("spatial_scales", spatial_scales)
    _check_scales("temporal_scales", temporal_scales)
    pairs = ({"spatial": float(s), "temporal": float(t)} for s, t in product(spatial_scales, temporal_scales))
    given = {"spatial": spatial, "temporal": temporal}
    sources = {group: None if path is None else _source(group, path) for group, path in given.items()}
    settings = [Setting(pair, pair) for pair in pairs]
    return ScaledPerturbation("landscape", settings, sources=sources, step=step, lora=lora)


def ablation(*, reference: str, parts: Sequence[str], step: int) -> ScaledPerturbation:
    """The LoRA of a finished run in one part of the network at a time: a state per part, the first is "none".

    ``reference`` is <runs>/<experiment>/<run id>. Raises UserError for parts that are not different ones after "none".
    """
    if len(parts) < 2 or parts[0] != NONE or len(set(parts)) != len(parts):
        raise UserError(
            f"perturbation.parts is {list(parts)}; allowed: {NONE} and then different parts, for example "
            f"[{NONE},all,down,middle,up]"
        )
    settings = [Setting({"part": part}, {} if part == NONE else {part: 1.0}) for part in parts]
    source = _source("reference", reference)
    group = str(source.run.manifest().perturbation.get("group"))
    return ScaledPerturbation("ablation", settings, sources={group: source}, step=step)


def in_part(names: set[str], part: str) -> bool:
    """Whether every word of ``part`` is one of a layer's names.

    >>> in_part({"all", "down", "attention", "query"}, "down attention"), in_part({"all", "up"}, "up attention")
    (True, False)
    """
    return set(part.split()) <= names


def _source(key: str, path: str) -> Reference:
    return Reference(f"perturbation.{key}", RunDir(resolve(path)))


def _check_scales(name: str, scales: Sequence[float]) -> None:
    numbers = all(isinstance(scale, (int, float)) and math.isfinite(scale) for scale in scales)
    if not numbers or list(scales) != sorted(set(scales)) or len(scales) < 2 or scales[0] != 0:
        raise UserError(
            f"perturbation.{name} is {list(scales)}; allowed: two or more numbers that rise from 0, such as [0,0.5,1]"
        )
