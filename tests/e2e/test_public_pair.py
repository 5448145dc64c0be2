"""One command for ModelScope and AnimateDiff, at toy size and with random weights."""

import html
from pathlib import Path

from perturb.store.rundir import RunDir
from tests.e2e.conftest import Commands
from tests.e2e.tiny_pair import weights

SMALL = (
    "probe_steps=[0,1]",
    "fit={batch_size:1,precision:float32,learning_rate:1e-2,height:32,width:32}",
    "sample={height:32,width:32,frames:4,precision:float32}",
    "sampler.steps=1",
    "perturbation.rank=2",
    "prompts.limit=2",
)


def test_both_groups_of_both_models_in_one_command(commands: Commands, inputs: Path, tmp_path: Path):
    command = "tests.e2e.tiny_pair", "experiment=public_pair", f"prompts.file={inputs / 'prompts.txt'}", *SMALL
    planned = commands(*command, "plan=true", f"runs_dir={tmp_path / 'planned'}")
    assert planned.code == 0, planned.log
    studies = [line.split()[1] for line in planned.log.splitlines() if line.startswith("study")]
    assert studies == [f"{g}_{t}_public:" for t in ("full", "partial") for g in ("spatial", "temporal")]
    for told in ("ModelScope 1.7B as diffusers' folder", "CC BY-NC 4.0", "v3_sd15_mm.ckpt of guoyww/animatediff"):
        assert planned.log.count(told) == 4
    images = f"images.folder={inputs / 'images'}"
    outcome = commands(*command, images, *weights(tmp_path), f"runs_dir={tmp_path / 'runs'}")
    assert outcome.code == 0, outcome.log
    runs = [RunDir(path) for path in sorted((tmp_path / "runs").glob("*_public/*"))]
    found = {(run.manifest().system["spec"], run.manifest().perturbation["group"]) for run in runs}
    assert found == {(spec, group) for spec in ("modelscope", "animatediff_v3") for group in ("spatial", "temporal")}
    assert all(run.manifest().frozen["unchanged"] for run in runs)
    page = (tmp_path / "runs" / "report.html").read_text(encoding="utf-8")
    assert "Coupling study, 4 runs" in page
    assert html.escape("ModelScope and AnimateDiff are no twins") in page
