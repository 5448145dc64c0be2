"""Published metrics that no kept library carries: the user names a function of their own for each.

    metrics.imported.dover_technical=my_metrics.dover

`dover(frames, fps, prompt)` gets uint8 frames `t h w 3`, frames per second and the prompt, and returns one number.
"""

import inspect
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from perturb.errors import UserError
from perturb.metrics.base import Axis, Clip, Context, MetricInfo, Unavailable, Value, score_each
from perturb.store.hashes import sha256

ImportedFunction = Callable[[Any, float, str], float]

OWN_FUNCTION = "a function of your own"
_NEEDS_OWN = "Comes from the function that the user names, which must keep to this range."


def _slot(name: str, axis: Axis, formula: str, source: str, pitfalls: str = "") -> MetricInfo:
    told = f"{_NEEDS_OWN} {pitfalls}".rstrip()
    return MetricInfo.of(name, axis, formula, source, told, needs=(OWN_FUNCTION,), depends=("fps", "size"))


SLOTS: Mapping[str, MetricInfo] = {
    info.name: info
    for info in (
        _slot(
            "motion_smoothness",
            "motion",
            "(255 - mean |odd frames - AMT's interpolation of the even ones|)/255",
            "VBench (Huang et al. 2024); AMT: Li et al. 2023",
            "A static clip scores highest.",
        ),
        _slot("dover_aesthetic", "visual", "DOVER's aesthetic rating (VQA_A) / 100", "EvalCrafter; Wu et al. 2023"),
        _slot("dover_technical", "visual", "DOVER's technical rating (VQA_T) / 100", "EvalCrafter; Wu et al. 2023"),
        _slot("viclip_score", "text", "cos(clip, prompt) of ViCLIP embeddings", "VBench; Wang et al. 2023"),
        _slot(
            "action_score",
            "motion",
            "accuracy of the recognised action (VideoMAE V2) for prompts that name one",
            "EvalCrafter (Liu et al. 2024)",
        ),
        _slot(
            "motion_ac",
            "motion",
            "1 if the flow score is above 5 px exactly when the prompt asks for large motion",
            "EvalCrafter (Liu et al. 2024)",
            "Needs to know from each prompt which it asks for.",
        ),
    )
}  # fmt: skip


class Imported:
    """The slot ``name``, filled by the function at the dotted path ``function``; unavailable without one."""

    paired, batched = False, True

    def __init__(self, name: str, *, function: str | None = None) -> None:
        if name not in SLOTS:
            raise UserError(f"metrics.imported.{name} is no such metric; allowed: {', '.join(SLOTS)}")
        self.infos = (SLOTS[name],)
        self.function = function

    def identity(self) -> Mapping[str, Any]:
        """The function and the hash of the file it is written in. What that reads in turn is not known here."""
        file = inspect.getsourcefile(self._resolved())
        code = sha256(file) if file else "unknown"
        return {"function": self.function, "code": code}

    def __call__(self, clips: Sequence[Clip], context: Context) -> Mapping[str, Sequence[Value]]:
        function, name = self._resolved(), self.infos[0].name
        return score_each(self.infos, clips, lambda one: {name: function(one.frames, one.fps, one.prompt)})

    def _resolved(self) -> ImportedFunction:
        name = self.infos[0].name
        if self.function is None:
            raise Unavailable(
                f"{name} is in no kept library; name your own function: metrics.imported.{name}=module.function, "
                "called with (frames uint8 t h w 3, fps, prompt)"
            )
        try:
            found = pkgutil.resolve_name(self.function)
        except (ImportError, AttributeError, ValueError) as error:
            raise UserError(
                f"metrics.imported.{name} is {self.function!r}, which cannot be imported: {error}"
            ) from error
        if not callable(found):
            raise UserError(f"metrics.imported.{name} is {self.function!r}, which is no function")
        return cast(ImportedFunction, found)
