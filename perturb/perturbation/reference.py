"""A finished run that the perturbation of another run is made from."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perturb.errors import UserError
from perturb.store.rundir import RunDir
from perturb.store.states import State, steps


@dataclass(frozen=True)
class Reference:
    """``run``, and the configuration key under which the user gave it."""

    key: str
    run: RunDir

    def __str__(self) -> str:
        return f"{self.key}={self.run.path}"

    def steps(self) -> dict[int, State]:
        """Its states by probe step, ascending. Raises UserError unless it is a fit that is finished."""
        found = steps(self.run.states())
        if not self.run.is_done("fit", "all") or not found:
            raise UserError(
                f"{self} is no run whose fit is finished; give the directory of one, runs/<experiment>/<run id>"
            )
        return found

    def adapter(self, step: int, where: str) -> Path:
        """The folder of its perturbation at ``step``. UserError when it kept none; ``where`` says who asked for it."""
        if step not in (known := self.steps()):
            allowed = ", ".join(map(str, known))
            raise UserError(f"{self.run.path} has no adapter of step {step}; allowed in {where}: {allowed}")
        return self.run.adapter(known[step].id)

    def check_model(self, base: Mapping[str, Any]) -> None:
        """Raise UserError unless it perturbed the model whose components have these hashes (`Manifest.frozen`)."""
        manifest = self.run.manifest()
        theirs = manifest.frozen.get("before", {})
        if different := sorted(part for part in theirs.keys() | base.keys() if theirs.get(part) != base.get(part)):
            made_of = f"{manifest.system.get('spec')}, {manifest.system.get('checkpoint')}"
            raise UserError(
                f"{self} is a run of another model ({made_of}): {', '.join(different)} differ. Give a run of this "
                "model, loaded with the same system.dtype, or set experiment and system to those of that run"
            )

    def check_group(self, group: str, remedy: str) -> None:
        """Raise UserError unless it perturbed ``group``; ``remedy`` is what to do then."""
        if (theirs := self.run.manifest().perturbation.get("group")) != group:
            raise UserError(
                f"{self} perturbed the group {theirs!r}, this run is to perturb {group!r} with it: {remedy}"
            )

    def check_seed(self, seed: int) -> None:
        """Raise UserError unless it was fitted with ``seed``, under which the scores made from it are filed."""
        if (theirs := self.run.manifest().perturbation.get("seed")) != seed:
            raise UserError(f"{self} was fitted with fit.seed={theirs}, and fit.seed is {seed}: set fit.seed={theirs}")

    def origin(self) -> dict[str, Any]:
        """For the manifest: which run, its kind and its seed."""
        perturbation = self.run.manifest().perturbation
        return {"run": self.run.path.name, "kind": perturbation.get("kind"), "seed": perturbation.get("seed")}
