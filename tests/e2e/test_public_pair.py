"""One command for ModelScope and AnimateDiff, at toy size and with random weights."""

import html
from pathlib import Path

from perturb.store.rundir import RunDir
from tests.e2e.conftest import Commands
from tests.e2e.tiny_pair import weights

COMMAND = ("tests.e2e.tiny_pair", "experiment=public_pair")


def test_both_groups_of_both_models_in_one_command(commands: Commands, inputs: Path, tmp_path: Path):
    planned = commands(*COMMAND, "plan=true", f"prompts.file={inputs / 'prompts.txt'}", f"runs_dir={tmp_path}")
    assert planned.code == 0, planned.log
    studies = [line.split()[1] for line in planned.log.splitlines() if line.startswith("study")]
    assert studies == [f"{g}_{t}_public:" for t in ("full", "partial") for g in ("spatial", "temporal")]
    for told in ("ModelScope 1.7B as diffusers' folder", "CC BY-NC 4.0", "v3_sd15_mm.ckpt of guoyww/animatediff"):
        assert planned.log.count(told) == 4
    outcome = commands(
        *COMMAND,
        *weights(tmp_path),
        f"images.folder={inputs / 'images'}",
        f"prompts.file={inputs / 'prompts.txt'}",
        f"runs_dir={tmp_path / 'runs'}",
        "prompts.limit=2",
        "probe_steps=[0,2]",
        "fit.batch_size=2",
        "fit.precision=float32",
        "fit.learning_rate=1e-2",
        "sample={height:32,width:32,frames:4,precision:float32}",
        "fit={height:32,width:32}",
        "sampler.steps=1",
        "perturbation.rank=2",
    )
    assert outcome.code == 0, outcome.log
    runs = [RunDir(path) for path in sorted((tmp_path / "runs").glob("*_public/*"))]
    found = {(run.manifest().system["spec"], run.manifest().perturbation["group"]) for run in runs}
    assert found == {(spec, group) for spec in ("modelscope", "animatediff_v3") for group in ("spatial", "temporal")}
    assert all(run.manifest().frozen["unchanged"] for run in runs)
    page = (tmp_path / "runs" / "report.html").read_text(encoding="utf-8")
    assert "Coupling study, 4 runs" in page
    assert html.escape("ModelScope and AnimateDiff are no twins") in page
