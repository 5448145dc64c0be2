"""`python -m perturb.run experiment=spatial_full`: one perturbation study, from configuration to table and figure."""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from perturb.cli.command import check_paths, run_command
from perturb.cli.identity import identity
from perturb.disks import convenience
from perturb.errors import UserError
from perturb.loop.rank import is_main_process, processes
from perturb.store.paths import resolve
from perturb.store.rundir import RunDir, run_id, write_atomic

if TYPE_CHECKING:
    from pathlib import Path

    from perturb.cli.config import RunConfig

# torch, peft and diffusers take seconds to import: a finished run, --help and plain mistakes do not wait for them.


def run(values: dict[str, Any]) -> None:
    """Begin or continue the study that the resolved configuration describes; show it when it is finished."""
    if values["plan"]:
        from perturb.cli.plan import print_plan

        return print_plan(values)
    check_paths(values)
    path = resolve(values["runs_dir"]) / str(values["name"]) / run_id(identity(values))
    directory = RunDir(path, writes=is_main_process())
    if not directory.is_done("study", "all"):
        from perturb.cli.config import RunConfig
        from perturb.structured import read

        config = read(RunConfig, values)
        if config.locked != "refuse" and processes() > 1:  # the others would go on without the one that looks
            raise UserError(f"locked is {config.locked}; allowed with {processes()} processes: refuse")
        with directory.lock(config.locked) as held:
            if not held:
                return None
            if not directory.is_done("study", "all"):  # else by the process that was waited for
                if directory.writes:
                    write_atomic(directory.config, OmegaConf.to_yaml(OmegaConf.create(values)))
                study(config, directory)
    return show(directory) if directory.writes else None


def study(config: RunConfig, run: RunDir) -> None:
    """Load the system, perturb one group of it on images, sample in each state, score; resumes what was begun.

    Several processes fit together, then take batches of clips and states to score by turns.
    """
    from perturb.cli.config import load, partition_of
    from perturb.cli.provenance import origin, record
    from perturb.loop.processes import part
    from perturb.loop.trackers import make_tracker
    from perturb.metrics import Format
    from perturb.structured import build
    from perturb.study.fit import Setup
    from perturb.study.sample import Generator, sample
    from perturb.study.score import Labels, Sampled, score, score_cache
    from perturb.study.shared import SharedClips
    from perturb.study.states import check_probe_steps, make_states
    from perturb.study.tracking import track_scores

    tracker = partial(make_tracker, config.tracker, project=config.project, folder=run.path)
    system = load(config.system)
    partition = partition_of(config, system)
    perturbation = build("perturbation", config.perturbation)
    images, own_images = (build("images", each) if each else None for each in (config.images, config.own_images))
    check_probe_steps(perturbation, config.probe_steps)
    sampler, metrics = build("sampler", config.sampler), build("metrics", config.metrics)
    prompts = config.prompts.load()
    generate = Generator(system, sampler, prompts, config.sample, image=config.image)
    record(run, config, system=system, partition=partition, images=images, generate=generate, metrics=metrics)
    if images is not None and (skipped := images.describe()["skipped"]) and run.writes:
        print(f"{len(skipped)} damaged images are left out: {', '.join(skipped[:5])}", file=sys.stderr)

    with run.stage("fit"):
        fixed = {"model": system, "partition": partition, "images": images, "own_images": own_images}
        setup = Setup(**fixed, config=config.fit, tracker=tracker())
        made = make_states(setup, perturbation, group=config.group, probe_steps=config.probe_steps, run=run)
    part()
    shared = SharedClips.of(config.runs_dir, origin(run, config, system=system, generate=generate))
    with run.stage("sample"):
        sample(generate, perturbation, made, run, playback_fps=config.sample.playback_fps, shared=shared)
    labels = Labels(run.path.name, config.training, config.group, config.fit.seed)
    texts, form = {prompt.id: prompt.text for prompt in prompts}, Format(**vars(generate.format))
    sampled = Sampled(run, labels, generate.samples, texts, [state.id for state in made], form)
    with run.stage("score"):  # the runs of a folder share what was measured: the unperturbed clips are the same in all
        score(metrics, sampled, images=images, cache=score_cache(config.runs_dir))
    if run.writes and (scores := tracker()) is not None:
        track_scores(scores, run)
    run.mark_done("study", "all")


def show(run: RunDir) -> None:
    """Print the table, and the paths of the figure and of the report."""
    from perturb.analysis.summary import summarise

    print(f"run     {run.path}")
    for name, make in (("figure", summarise), ("report", _report)):
        with convenience(f"the {name} is"):
            print(f"{name}  {make(run.path)}")


def _report(path: Path) -> str:
    try:
        from perturb.analysis.report.write import run_report
    except ModuleNotFoundError as error:
        return f"not written: {error.name} is not installed (pip install 'perturb[analysis]')"
    return str(run_report(path))


def main() -> None:
    """The command."""
    run_command(run, "config")


if __name__ == "__main__":
    main()
