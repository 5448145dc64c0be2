"""`python -m perturb.sample system=nano_full prompt="…"`: plain generation, optionally with an adapter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from perturb.cli.command import check_paths, run_command
from perturb.errors import UserError
from perturb.store.paths import resolve
from perturb.store.rundir import RunDir

if TYPE_CHECKING:
    from pathlib import Path

    from perturb.data.prompts import Prompt, PromptsConfig
    from perturb.models.base import VideoModel

STUDY_ONLY = ("training", "images", "fit", "probe_steps")
"""What a system's configuration brings for studies."""

# torch and diffusers take seconds to import: --help and plain mistakes do not wait for them.


def generate(values: dict[str, Any]) -> None:
    """Clips of the given prompts as .npy, .mp4 and one contact sheet in the folder ``output``."""
    for key in STUDY_ONLY:
        values.pop(key, None)
    check_paths(values)

    from perturb.cli.config import GenerateConfig, load
    from perturb.perturbation import restore
    from perturb.progress import progress
    from perturb.store.video import write_contact_sheet, write_mp4
    from perturb.structured import build, read
    from perturb.study.sample import Generator, save_clip

    config = read(GenerateConfig, values)
    prompts = _prompts(config.prompt, config.prompts)
    system = load(config.system)
    if config.adapter is not None:
        adapter = resolve(config.adapter)
        _note_origin(system, adapter)
        restore(system.network, adapter).scale(config.adapter_scale)
    make = Generator(system, build("sampler", config.sampler), prompts, config.sample, image=config.image)

    output, rows = resolve(config.output), []
    with progress("sample", len(make.jobs)) as advance:
        for batch in make.batches:
            for (index, seed), frames in zip(batch, make(batch, advance), strict=True):
                path = output / f"{prompts[index].id}_s{seed}.npy"
                save_clip(path, frames)
                write_mp4(path.with_suffix(".mp4"), frames, config.sample.playback_fps)
                rows.append(frames)
    write_contact_sheet(output / "sheet.png", rows)
    print(f"clips  {output} ({len(rows)})\nsheet  {output / 'sheet.png'}")


def _note_origin(system: VideoModel, adapter: Path) -> None:
    """Say so when the run that the adapter lies in perturbed another model: it may be meant, so it is no error."""
    from perturb.perturbation.reference import Reference
    from perturb.store.tensors import hash_modules, summarise

    run = RunDir(adapter.parent.parent)
    if run.manifest_path.is_file():
        try:
            Reference("adapter", run).check_model(summarise(hash_modules(system.modules())))
        except UserError as error:
            print(f"note   {error}")


def _prompts(text: str | None, given: PromptsConfig) -> list[Prompt]:
    """The one prompt, or those of the file. UserError unless exactly one of them is given."""
    from perturb.data.prompts import Prompt

    if (text is None) == (given.file is None):
        found = "neither is" if text is None else "both are"
        raise UserError(f'give either prompt="…" or prompts.file=/path/prompts.txt; {found} given')
    return [Prompt(id="p000", text=str(text))] if given.file is None else given.load()


def main() -> None:
    """The command."""
    run_command(generate, "generate")


if __name__ == "__main__":
    main()
