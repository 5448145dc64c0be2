"""Proof that two trainings are twins: one init, one sample stream, and nothing moved but what each recipe names."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perturb.errors import UserError
from perturb.store.rundir import write_atomic
from perturb.store.tensors import Hashes, hash_modules, moved, summarise

if TYPE_CHECKING:
    from perturb.training.diffusion import Trace

TRACE, CARD = "hashes.json", "training.json"


@dataclass(frozen=True)
class Member:
    """One finished training: its card, the hashes of everything before it, and the names of what it trained."""

    folder: Path
    card: dict[str, Any]
    init: Hashes
    trained: frozenset[str]


def write_trace(folder: Path, trace: Trace) -> None:
    """Keep the hashes of ``trace`` beside the finished system: per tensor, and one for each component."""
    content = {"init": trace.init, "init_summary": summarise(trace.init), "trained": trace.moved}
    write_atomic(folder / TRACE, json.dumps(content, indent=1) + "\n")


def read_member(folder: Path) -> Member:
    """What a training left in ``folder``. UserError where it is not the output of one."""
    absent = [name for name in (CARD, TRACE) if not (folder / name).is_file()]
    if absent:
        raise UserError(
            f"{folder} lacks {', '.join(absent)}: give the output folder of a finished python -m perturb.train "
            "(trainings before hashes were kept cannot be verified)"
        )
    card, trace = (json.loads((folder / name).read_text(encoding="utf-8")) for name in (CARD, TRACE))
    return Member(folder, card, trace["init"], frozenset(trace["trained"]))


def frozen_that_moved(member: Member) -> list[str]:
    """Names of the tensors of the finished system that are not what they were in the init, and were not trained."""
    from perturb.models.videocrafter.checkpoint import load_system

    now = hash_modules(load_system(member.folder).modules())
    return [name for name in moved(member.init, now) if name not in member.trained]


def differences(first: Member, second: Member) -> list[str]:
    """One line for each reason why the two are no twins; none where they are."""
    lines = []
    if different := moved(first.init, second.init):
        lines.append(f"they began from different weights: {len(different)} tensors differ, e.g. {different[:3]}")
    for key, what in (("sample_stream_sha256", "sample stream"), ("data", "data")):
        a, b = first.card.get(key), second.card.get(key)
        if a is None or a != b:
            lines.append(f"the {what} differs: {_short(a)} in {first.folder}, {_short(b)} in {second.folder}")
    for member in (first, second):
        if wrong := frozen_that_moved(member):
            lines.append(f"{member.folder}: {len(wrong)} frozen tensors are not those of the init, e.g. {wrong[:3]}")
    return lines


def _short(value: Any) -> str:
    text = "not recorded" if value is None else str(value)
    return text if len(text) <= 200 else f"{text[:200]}…"
