"""What is written on disk: score rows, training rows, the manifest. Knows neither torch nor hydra."""

import csv
import dataclasses
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from perturb.errors import UserError
from perturb.store.states import step_id

SCHEMA_VERSION = 2
"""Version of the run directory's files; a reader refuses what a newer program has written.

1: no states.csv; the rows of scores.csv name a step, and states of other coordinates were numbered like steps.
"""

SET_PROMPT = "*"
"""``prompt_id`` of a row that measures the whole set of clips of one state."""
SET_SEED = -1
"""``seed`` of such a row."""

Status = Literal["ok", "unavailable", "failed"]


@dataclass(frozen=True)
class ScoreRow:
    """One value of one metric for one clip, or (prompt ``*``, seed -1) for all clips of one state.

    ``value`` is None unless ``status`` is ``ok``; ``reason`` then says why.
    """

    run_id: str
    training: str
    group: str
    lora_seed: int
    state: str
    prompt_id: str
    seed: int
    metric: str
    value: float | None
    status: Status = "ok"
    reason: str = ""

    @property
    def key(self) -> tuple[str, str, int, str]:
        """What the value is of: state, prompt, noise seed, metric."""
        return (self.state, self.prompt_id, self.seed, self.metric)


@dataclass(frozen=True)
class ClipScoreRow:
    """One value of one metric for one clip of a folder, or (clip and prompt_id ``*``) for all of them.

    ``clip`` is a path relative to the folder; what is not known of it is None. ``value``, ``status`` and ``reason`` as
    in `ScoreRow`.
    """

    clip: str
    prompt_id: str
    prompt: str
    fps: float | None
    frames: int | None
    height: int | None
    width: int | None
    metric: str
    value: float | None
    status: Status = "ok"
    reason: str = ""


@dataclass(frozen=True)
class TrainRow:
    """One fitting step. At probe steps also ‖Δ‖_F/‖θ‖_F over the targeted weights, and the loss on all of D_I."""

    step: int
    loss: float | None
    learning_rate: float | None
    gradient_norm: float | None
    magnitude: float | None = None
    probe_loss: float | None = None


@dataclass(frozen=True)
class Manifest:
    """What a run was made from and how far it got; every section is plain JSON.

    ``caveats`` what a report has to say · ``versions`` package → version · ``git`` revision or "unavailable" ·
    ``system`` checkpoint, sha256, spec name, training · ``partition`` group → parameter count · ``perturbation``
    kind (lora, direct, random, …), group, seed of the fit, layers, parameters; of a control the ``reference`` run ·
    ``images`` set description with its ``as_video`` policy, frames and fps · ``distance`` loss of the untouched
    model on them and on its own training stills · ``prompts`` id → text · ``clips`` height, width, frames, fps
    (what the model is told), sampler, seeds · ``playback_fps`` at which they are shown, None in earlier runs ·
    ``metrics`` metric infos · ``frozen`` hashes before and after fitting · ``stages`` stage → status.
    """

    schema_version: int = SCHEMA_VERSION
    run_id: str = ""
    experiment: str = ""
    caveats: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    git: str = "unavailable"
    system: dict[str, Any] = field(default_factory=dict)
    partition: dict[str, Any] = field(default_factory=dict)
    perturbation: dict[str, Any] = field(default_factory=dict)
    images: dict[str, Any] = field(default_factory=dict)
    distance: dict[str, Any] = field(default_factory=dict)
    prompts: dict[str, str] = field(default_factory=dict)
    clips: dict[str, Any] = field(default_factory=dict)
    playback_fps: float | None = None
    metrics: list[dict[str, Any]] = field(default_factory=list)
    frozen: dict[str, Any] = field(default_factory=dict)
    stages: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """Readable JSON, one section per key, ending in a newline."""
        return json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False) + "\n"

    @staticmethod
    def from_json(text: str, source: str = "manifest") -> "Manifest":
        """The inverse of `to_json`. Raises UserError for text that is no manifest or one of a newer schema."""
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise UserError(f"{source} is not JSON ({error}). Remove the run directory and run again.") from None
        version = values.get("schema_version") if isinstance(values, dict) else None
        if not isinstance(version, int) or version > SCHEMA_VERSION:
            raise UserError(
                f"{source} has schema version {version!r}; this program reads up to {SCHEMA_VERSION}. Update perturb."
            )
        known = {f.name for f in dataclasses.fields(Manifest)}
        if unknown := sorted(set(values) - known):
            raise UserError(f"{source} has unknown sections {unknown}; allowed: {sorted(known)}.")
        return Manifest(**values)


SCORE_COLUMNS = tuple(f.name for f in dataclasses.fields(ScoreRow))
OLD_SCORE_COLUMNS = tuple("step" if name == "state" else name for name in SCORE_COLUMNS)
"""Of schema 1."""
CLIP_SCORE_COLUMNS = tuple(f.name for f in dataclasses.fields(ClipScoreRow))
TRAIN_COLUMNS = tuple(f.name for f in dataclasses.fields(TrainRow))
OLD_TRAIN_COLUMNS = TRAIN_COLUMNS[:-1]
"""Of fits that did not measure their loss at probe steps."""


def _cell(value: object) -> str:
    """None → empty; floats by repr, so that reading and writing again gives the same bytes."""
    if value is None:
        return ""
    return repr(float(value)) if isinstance(value, float) else str(value)


def _to_csv(columns: Sequence[str], rows: Sequence[ScoreRow] | Sequence[ClipScoreRow] | Sequence[TrainRow]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(getattr(row, name)) for name in columns] for row in rows)
    return buffer.getvalue()


def _from_csv(path: Path, *allowed: Sequence[str]) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) not in allowed:
            raise UserError(f"{path} has the columns {reader.fieldnames}; expected {list(allowed[0])}.")
        return list(reader)


def _number(text: str) -> float | None:
    return float(text) if text else None


def scores_csv(rows: Iterable[ScoreRow], states: Sequence[str]) -> str:
    """scores.csv as text: rows by state in the order of the ids ``states``, then by prompt, noise seed and metric."""
    order = {state: i for i, state in enumerate(states)}
    return _to_csv(SCORE_COLUMNS, sorted(rows, key=lambda row: (order[row.state], *row.key[1:])))


def clip_scores_csv(rows: Sequence[ClipScoreRow]) -> str:
    """The scores.csv of a folder of clips as text, rows in the order given."""
    return _to_csv(CLIP_SCORE_COLUMNS, rows)


def read_scores(path: Path) -> list[ScoreRow]:
    """The rows of a scores.csv; those of schema 1 with the id that their step has now.

    Raises UserError when its columns are not those of `ScoreRow`.
    """
    return [
        ScoreRow(
            run_id=row["run_id"],
            training=row["training"],
            group=row["group"],
            lora_seed=int(row["lora_seed"]),
            state=row["state"] if "state" in row else step_id(int(row["step"])),
            prompt_id=row["prompt_id"],
            seed=int(row["seed"]),
            metric=row["metric"],
            value=_number(row["value"]),
            status=row["status"],  # type: ignore[arg-type]
            reason=row["reason"],
        )
        for row in _from_csv(path, SCORE_COLUMNS, OLD_SCORE_COLUMNS)
    ]


def train_csv(rows: Iterable[TrainRow]) -> str:
    """train.csv as text, rows sorted by step."""
    return _to_csv(TRAIN_COLUMNS, sorted(rows, key=lambda row: row.step))


def read_train(path: Path) -> list[TrainRow]:
    """The rows of a train.csv. Raises UserError when its columns are not those of `TrainRow`."""
    return [
        TrainRow(int(row["step"]), *(_number(row[name]) for name in TRAIN_COLUMNS[1:] if name in row))
        for row in _from_csv(path, TRAIN_COLUMNS, OLD_TRAIN_COLUMNS)
    ]
