"""Rows and the manifest survive the disk byte for byte."""

import dataclasses
import math
from pathlib import Path

import pytest

from perturb.errors import UserError
from perturb.store.records import (
    SCORE_COLUMNS,
    Manifest,
    ScoreRow,
    TrainRow,
    read_scores,
    read_train,
    scores_csv,
    train_csv,
)

ROW = ScoreRow("ab12", "full", "spatial", 0, "step_000020", "p001", 0, "dynamics", 0.1 + 0.2)
ORDER = ["none", "step_000020"]


def test_score_columns_begin_as_designed():
    designed = "run_id training group lora_seed state prompt_id seed metric value status"
    assert list(SCORE_COLUMNS[:10]) == designed.split()


def test_scores_are_sorted_and_exact(tmp_path: Path):
    rows = [
        ROW,
        dataclasses.replace(ROW, state="none", value=1 / 3),
        dataclasses.replace(ROW, prompt_id="*", seed=-1, metric="watermark", value=math.pi * 1e-17),
        dataclasses.replace(ROW, metric="lpips", value=None, status="unavailable", reason='looked for "a,b"\nthere'),
    ]
    path = tmp_path / "scores.csv"
    path.write_text(scores_csv(rows, ORDER), encoding="utf-8", newline="")
    back = read_scores(path)
    assert [row.metric for row in back] == ["dynamics", "watermark", "dynamics", "lpips"]
    assert set(back) == set(rows)
    assert scores_csv(reversed(back), ORDER) == path.read_text(encoding="utf-8")
    assert "0.30000000000000004" in path.read_text()


def test_rows_of_schema_1_name_a_step(tmp_path: Path):
    path = tmp_path / "scores.csv"
    path.write_text(scores_csv([ROW], ORDER).replace("state", "step").replace("step_000020", "20"))
    assert read_scores(path) == [ROW]


def test_train_rows_keep_missing_values(tmp_path: Path):
    rows = [TrainRow(1, 0.25, 1e-3, 0.5), TrainRow(0, None, None, None, 0.0, 0.75)]
    path = tmp_path / "train.csv"
    path.write_text(train_csv(rows))
    header = "step,loss,learning_rate,gradient_norm,magnitude,probe_loss"
    assert path.read_text() == f"{header}\n0,,,,0.0,0.75\n1,0.25,0.001,0.5,,\n"
    assert read_train(path) == rows[::-1]


def test_a_train_csv_from_before_the_losses_of_probe_steps_is_read(tmp_path: Path):
    path = tmp_path / "train.csv"
    path.write_text("step,loss,learning_rate,gradient_norm,magnitude\n0,,,,0.0\n")
    assert read_train(path) == [TrainRow(0, None, None, None, 0.0)]


def test_wrong_columns_are_named(tmp_path: Path):
    path = tmp_path / "scores.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match=r"columns \['a', 'b'\]"):
        read_scores(path)


def test_manifest_round_trip_and_refusals():
    manifest = Manifest(run_id="x", stages={"fit": "done"})
    assert Manifest.from_json(manifest.to_json()) == manifest
    with pytest.raises(UserError, match="schema version 99"):
        Manifest.from_json('{"schema_version": 99}')
    with pytest.raises(UserError, match="not JSON"):
        Manifest.from_json("{")
    with pytest.raises(UserError, match="surprise"):
        Manifest.from_json('{"schema_version": 1, "surprise": 1}')
