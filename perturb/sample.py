"""`python -m perturb.sample system=nano_full prompt="…"`: plain generation, optionally with an adapter."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from perturb.cli.command import check_paths, run_command
from perturb.disks import convenience
from perturb.errors import UserError
from perturb.store.hashes import sha256
from perturb.store.paths import resolve
from perturb.store.rundir import RunDir

if TYPE_CHECKING:
    from pathlib import Path

    from perturb.cli.config import GenerateConfig
    from perturb.data.prompts import Prompt, PromptsConfig
    from perturb.data.script import Line
    from perturb.models.base import VideoModel
    from perturb.study.sample import Generator

STUDY_ONLY = ("training", "images", "own_images", "fit", "metrics", "probe_steps")
"""What a system's configuration sets for studies alone."""

# torch and diffusers take seconds to import: --help and plain mistakes do not wait for them.


def generate(values: dict[str, Any]) -> None:
    """Clips of the prompts as .npy, .mp4 and one contact sheet in the folder ``output``; long ones as they grow."""
    for key in STUDY_ONLY:
        values.pop(key, None)
    check_paths(values)

    from perturb.cli.config import GenerateConfig, load
    from perturb.data.script import load_script
    from perturb.perturbation import restore
    from perturb.structured import build, read
    from perturb.study.sample import Generator

    config = read(GenerateConfig, values)
    if config.interpolate is not None:
        _interpolate(config.interpolate, config)
        return
    script = None if config.script is None else load_script(config.script, config.sample.playback_fps)
    prompts = _prompts(config.prompt, config.prompts, script)
    system, merged = load(config.system), nullcontext()
    if config.adapter is not None:
        adapter = resolve(config.adapter)
        _note_origin(system, adapter)
        perturbation = restore(system.network, adapter)
        perturbation.scale(config.adapter_scale)
        merged = perturbation.merged()
    make = Generator(system, build("sampler", config.sampler), prompts, config.sample, image=config.image)
    with merged:
        _write(make, config, script)


def _write(make: Generator, config: GenerateConfig, script: list[Line] | None) -> None:
    from perturb.diffusion.fifo import FIFOSampler
    from perturb.progress import progress
    from perturb.store.video import write_contact_sheet
    from perturb.study.sample import save_clip, show_clip

    output, rows = resolve(config.output), []
    if script is not None or isinstance(make.sampler, FIFOSampler):
        print(f"clips  {output} ({len(_tell(make, config, script))})")
        return
    with progress("sample", len(make.jobs)) as advance:
        for batch in make.batches:
            for (index, seed), frames in zip(batch, make(batch, advance), strict=True):
                path = output / f"{make.prompts[index].id}_s{seed}.npy"
                save_clip(path, frames)
                show_clip(path, frames, config.sample.playback_fps)
                rows.append(frames)
    print(f"clips  {output} ({len(rows)})")
    with convenience("the contact sheet is"):
        write_contact_sheet(output / "sheet.png", rows)
        print(f"sheet  {output / 'sheet.png'}")


def _note_origin(system: VideoModel, adapter: Path) -> None:
    """Print a note when the adapter was fitted on another model: that may be intended, so it is no error."""
    from perturb.perturbation.reference import Reference
    from perturb.store.tensors import hash_modules, summarise

    run = RunDir(adapter.parent.parent)
    if run.manifest_path.is_file():
        try:
            Reference("adapter", run).check_model(summarise(hash_modules(system.modules())))
        except UserError as error:
            print(f"note   {error}")


def _interpolate(name: str, config: GenerateConfig) -> None:
    """The clip ``name`` with frames between its own, in the folder ``output``."""
    from perturb.cli.config import load
    from perturb.data.footage import read_clip
    from perturb.perturbation import restore
    from perturb.progress import progress
    from perturb.structured import build
    from perturb.study.between import filled, generated
    from perturb.study.sample import save_clip, show_clip

    source, factor = resolve(name), config.factor
    try:
        frames, fps = read_clip(source, config.sample.playback_fps)
    except UserError as error:
        raise UserError(f"interpolate={name}: {error}") from None
    if config.by == "flow":
        made = filled(frames, factor, loop=config.loop)
    else:
        system, sampler = load(config.system), build("sampler", config.sampler)
        if config.adapter is not None:
            restore(system.network, resolve(config.adapter)).scale(config.adapter_scale)
        with progress("sample", len(frames) - 1 + config.loop) as advance:
            settings = config.sample, frames, factor, advance
            made = generated(system, sampler, config.prompt or "", *settings, loop=config.loop)
    path = resolve(config.output) / f"{source.stem}_x{factor}.npy"
    save_clip(path, made)
    show_clip(path, made, fps * factor)
    print(f"clip   {path} ({len(frames)} frames, now {len(made)}, {fps * factor:g} per second)")


def _tell(make: Generator, config: GenerateConfig, script: list[Line] | None) -> list[Path]:
    """One clip after the other, each written as it grows: that of the script, or those of the prompts."""
    from perturb.progress import progress
    from perturb.study.story import Story, scripted

    frames, stem = make.format.frames, "story" if config.script is None else resolve(config.script).stem
    jobs = [(make.prompts[index].id, seed, make.cond.index([index])) for index, seed in make.jobs]
    if script is not None:
        cond = scripted(make.cond, script, frames, config.blend)
        jobs = [(stem, seed, cond) for seed in config.sample.seeds]
    identity = {
        "system": [config.system, make.model.provenance],
        "adapter": [config.adapter, _digest(config.adapter), config.adapter_scale],
        "image": [config.image, _digest(config.image)],
        "texts": [prompt.text for prompt in make.prompts],
        "frames_of_texts": None if script is None else [[line.frame for line in script], config.blend],
        "negative_prompt": config.sample.negative_prompt,
    }
    paths = [resolve(config.output) / f"{name}_s{seed}.npy" for name, seed, _ in jobs]
    with progress("sample", len(jobs)) as advance:
        for path, (name, seed, cond) in zip(paths, jobs, strict=True):
            Story(make, cond, name, seed, path, config.sample.playback_fps, identity).tell(advance)
    return paths


def _digest(path: str | None) -> str | None:
    return None if path is None else sha256(resolve(path))


def _prompts(text: str | None, file: PromptsConfig, script: list[Line] | None) -> list[Prompt]:
    """The one prompt, those of the file, or the texts of the script. UserError unless exactly one of them is given."""
    from perturb.data.prompts import Prompt

    given = [value for value in (text, file.file, script) if value is not None]
    if len(given) != 1:
        found = f"{len(given) or 'none'} of them given"
        raise UserError(f'give prompt="…", prompts.file=/path/prompts.txt or script=/path/story.txt; {found}')
    if script is not None:
        return [Prompt(id=f"line{index:03d}", text=line.text) for index, line in enumerate(script)]
    return file.load() if text is None else [Prompt(id="p000", text=text)]


def main() -> None:
    """The command."""
    run_command(generate, "generate")


if __name__ == "__main__":
    main()
