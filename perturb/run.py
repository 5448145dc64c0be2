"""`python -m perturb.run experiment=spatial_full`: one perturbation study, from configuration to table and figure."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from perturb.cli.command import check_paths, run_command
from perturb.cli.identity import identity
from perturb.store.paths import resolve
from perturb.store.rundir import RunDir, run_id, write_atomic

if TYPE_CHECKING:
    from perturb.cli.config import RunConfig

CELL_ANALYSES = {"landscape": "perturb.analysis.landscape.landscape", "ablation": "perturb.analysis.layers.layers"}
"""Who shows a run whose probe steps are cells of a table and no steps."""

# torch, peft and diffusers take seconds to import: a finished run, --help and plain mistakes do not wait for them.


def run(values: dict[str, Any]) -> None:
    """The study that the resolved configuration describes: begun, gone on with, or shown when it is finished."""
    if values["plan"]:
        from perturb.cli.plan import print_plan

        return print_plan(values)
    check_paths(values)
    directory = RunDir(resolve(values["runs_dir"]) / str(values["name"]) / run_id(identity(values)))
    if not directory.is_done("study", "all"):
        from perturb.cli.config import RunConfig
        from perturb.structured import read

        config = read(RunConfig, values)
        with directory.lock():
            write_atomic(directory.config, OmegaConf.to_yaml(OmegaConf.create(values)))
            study(config, directory)
    return show(directory)


def study(config: RunConfig, run: RunDir) -> None:
    """Load the system, perturb one group of it on images, sample at each probe step, score; resumes what was begun."""
    from perturb.cli.config import load
    from perturb.cli.provenance import record
    from perturb.data.prompts import load_prompts
    from perturb.metrics import Format
    from perturb.perturbation import LandscapePerturbation
    from perturb.perturbation.partition import Partition
    from perturb.structured import build
    from perturb.study.fit import fit
    from perturb.study.fit_sources import fit_sources
    from perturb.study.sample import Generator, sample
    from perturb.study.score import Labels, Sampled, score, score_cache

    system = load(config.system)
    partition = Partition.of(system.unet)
    perturbation, images = build("perturbation", config.perturbation), build("images", config.images)
    sampler, metrics = build("sampler", config.sampler), build("metrics", config.metrics)
    prompts = load_prompts(**vars(config.prompts))
    generate = Generator(system, sampler, prompts, config.sample, image=config.image)
    record(run, config, system=system, partition=partition, images=images, generate=generate, metrics=metrics)
    if skipped := images.describe()["skipped"]:
        print(f"{len(skipped)} damaged images are left out: {', '.join(skipped[:5])}", file=sys.stderr)

    steps = config.probe_steps
    form = Format(**vars(generate.format))
    sampled = Sampled(generate.samples, {prompt.id: prompt.text for prompt in prompts}, steps, form)
    labels = Labels(run.path.name, config.training, config.group, config.fit.seed)
    with run.stage("fit"):
        if isinstance(perturbation, LandscapePerturbation):
            fit_sources(system, perturbation, images, config=config.fit, run=run)
        fit(system, perturbation, images, probe_steps=steps, config=config.fit, run=run, group=config.group)
    with run.stage("sample"):
        sample(generate, perturbation, steps, run, playback_fps=config.sample.playback_fps)
    with run.stage("score"):  # the runs of a folder share what was measured: step 0 of a model is the same in all
        score(metrics, sampled, run, labels=labels, images=images, cache=score_cache(config.runs_dir))
    run.mark_done("study", "all")


def show(run: RunDir) -> None:
    """Print the table, and the paths of the figure and of the report."""
    kind = run.manifest().perturbation.get("kind")
    if kind in CELL_ANALYSES:
        print(f"run     {run.path}\nfigure  {import_module(CELL_ANALYSES[kind]).summarise(run.path)}")
        return
    from perturb.analysis.summary import summarise

    figure = summarise(run.path)
    print(f"run     {run.path}\nfigure  {figure}\nreport  {_report(run)}")


def _report(run: RunDir) -> str:
    try:
        from perturb.analysis.report.write import run_report
    except ModuleNotFoundError as error:
        return f"not written: {error.name} is not installed (pip install 'perturb[analysis]')"
    return str(run_report(run.path))


def main() -> None:
    """The command."""
    run_command(run, "config")


if __name__ == "__main__":
    main()
