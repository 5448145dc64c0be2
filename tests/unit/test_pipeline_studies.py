"""Whole studies of pipelines of diffusers, as the command runs them: fit, states, clips, scores, report."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from perturb.perturbation.files import read
from perturb.run import main
from perturb.store.records import read_scores, read_train
from perturb.store.rundir import RunDir
from perturb.store.states import step_id
from tests.unit.tiny_pipelines import SIZE, save

ATTENTION = r'partition.groups={attention:"\.attn1\.",rest:"^(?!.*\.attn1\.)"}'
STUDIES = {
    "svd": ("temporal", "edm", "temporal|time_mixer|time_pos", ["fit.precision=bfloat16"]),
    "latte": ("spatial", "epsilon", "^(?!temporal)", ["+system.arguments.clean_caption=false"]),
    "i2vgen": ("temporal", "v_prediction", "temp_|transformer_in", ["fit.text_dropout=0.5"]),
    "wan": ("attention", "flow", r"\.attn1\.", [ATTENTION]),
    "cogvideox": (
        "attention",
        "v_prediction",
        r"\.attn1\.",
        [ATTENTION, "images.as_video=repeat", "sample.precision=bfloat16"],
    ),
}
SETTINGS = ["probe_steps=[0,2]", "fit.batch_size=1", "fit.learning_rate=5e-2", "fit.warmup_steps=1"]
SETTINGS += ["fit.precision=float32", "fit.gradient_checkpointing=false", "sample.precision=float32"]
SETTINGS += ["sampler.steps=2", "perturbation.rank=2"]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "images").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "images" / "0.png")
    (folder / "images" / "0.txt").write_text("a red circle")
    (folder / "prompts.txt").write_text("a red star\na blue circle\n")
    return folder


@pytest.mark.parametrize("name", STUDIES)
def test_a_pipeline_is_studied(name: str, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (group, objective, layers, more), (size, frames) = STUDIES[name], SIZE[name]
    paths = {"system.pipeline": save(name, inputs), "images.folder": inputs / "images", "runs_dir": tmp_path / "runs"}
    paths |= {"prompts.file": inputs / "prompts.txt"}
    paths |= {"image": inputs / "images" / "0.png"} if name in ("svd", "i2vgen") else {}
    sizes = {f"{key}.{what}": size for key in ("fit", "sample") for what in ("height", "width")}
    sizes |= {"fit.frames": frames, "sample.frames": frames}
    words = ["system=diffusers", f"group={group}", *SETTINGS, *(f"{k}={v}" for k, v in (paths | sizes).items()), *more]
    monkeypatch.setattr(sys, "argv", ["perturb.run", *words])
    if name != "svd":  # one report will do: it sees no model
        monkeypatch.setattr("perturb.run.show", lambda _: None)
    main()
    (path,) = (tmp_path / "runs").glob(f"{group}_full/*")
    run = RunDir(path)
    manifest = run.manifest()
    assert manifest.stages == {"fit": "done", "sample": "done", "score": "done"}
    assert manifest.system["objective"] == objective
    assert manifest.frozen["unchanged"] is True
    assert (path / "report.html").is_file() == (name == "svd")
    adapted = read(run.adapter(step_id(2))).factors
    assert adapted
    assert all(re.search(layers, layer + ".") for layer in adapted)
    assert [row.magnitude == 0 for row in read_train(run.train_log)] == [True, False, False]
    assert {row.state for row in read_scores(run.scores) if row.value is not None} == {step_id(0), step_id(2)}
    before, after = (np.load(run.clip(step_id(step), "p001", 0)) for step in (0, 2))
    assert before.shape == (frames, size, size, 3)
    assert (before != after).any()
