"""A study of an image-to-video model: an image per prompt, θ_image perturbed."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open

from perturb.models.videocrafter.checkpoint import save_system
from perturb.models.videocrafter.spec import ModelSpec
from perturb.store.rundir import RunDir
from perturb.store.states import step_id
from tests.e2e.conftest import PROMPTS, Commands
from tests.unit.image_models import built, dynamicrafter_spec


@pytest.fixture
def arguments(tiny_spec: ModelSpec, study: list[str], tmp_path: Path) -> list[str]:
    save_system(built(dynamicrafter_spec(tiny_spec)), tmp_path / "model")
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 255, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    rows = "\n".join(f"{prompt},{number}.png" for number, prompt in enumerate(PROMPTS[:2]))
    (tmp_path / "prompts.csv").write_text(f"prompt,image\n{rows}\n")
    changed = {
        "system.checkpoint": tmp_path / "model",
        "prompts.file": tmp_path / "prompts.csv",
        "probe_steps": "[0,4]",
        "images.as_video": "repeat",
        "sampler": "dynamicrafter",
        "group": "image",
        "runs_dir": tmp_path / "runs",
    }
    return [each for each in study if each.partition("=")[0] not in changed] + [f"{k}={v}" for k, v in changed.items()]


def test_an_image_per_prompt_and_its_branch_perturbed(commands: Commands, arguments: list[str], tmp_path: Path):
    outcome = commands("perturb.run", *arguments)
    assert outcome.code == 0, outcome.log
    (path,) = (tmp_path / "runs" / "image_full").iterdir()
    run = RunDir(path)
    manifest = run.manifest()
    assert manifest.clips["images"].keys() == {"p000", "p001"}
    assert manifest.partition["image"] > 0
    assert manifest.frozen["unchanged"] is True
    with safe_open(run.adapter(step_id(4)) / "adapter_model.safetensors", framework="np") as file:
        assert all(".cross_attention.image." in key for key in file.keys())  # noqa: SIM118 (not a dict)
    before, after = (np.load(run.clip(step_id(step), "p000", 0)).astype(int) for step in (0, 4))
    assert np.abs(after - before).max() > 1
    assert (path / "report.html").is_file()
