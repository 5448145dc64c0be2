"""How often the clips of a model of the embedded world show what their prompts name, judged from the pixels."""

from perturb.data.prompts import Prompt
from perturb.data.shapes import judge
from perturb.data.shapes.world import DIRECTIONS, Scene, scene
from perturb.diffusion import DDIMSampler
from perturb.progress import progress
from perturb.stages.sample import Generator, SampleConfig
from perturb.videocrafter.system import VideoSystem

STREAM = 2000  # scenes of the judged prompts; their label combinations are held out of every training set


def held_out_scenes(count: int) -> list[Scene]:
    """``count`` held-out scenes with different captions, and as many of each direction as of any other."""
    scenes: dict[str, Scene] = {}
    room = dict.fromkeys(DIRECTIONS, -(-count // len(DIRECTIONS)))
    index = 0
    while len(scenes) < count:
        candidate = scene(STREAM, index, held_out=True)
        index += 1
        if room[candidate.direction] and candidate.caption not in scenes:
            scenes[candidate.caption] = candidate
            room[candidate.direction] -= 1
    return list(scenes.values())


def oracle_report(system: VideoSystem, *, count: int = 64) -> dict[str, float]:
    """Share of ``count`` held-out prompts whose clip shows the named colour, the named shape, the named direction.

    Clips are sampled with the model's defaults, noise seed 0, one per prompt.
    """
    scenes = held_out_scenes(count)
    prompts = [Prompt(f"h{index:03d}", here.caption) for index, here in enumerate(scenes)]
    generate = Generator(system, DDIMSampler(), prompts, SampleConfig(), image=None)
    right = dict.fromkeys(("colour", "shape", "direction"), 0)
    with progress("oracle", count) as advance:
        for batch in generate.batches:
            for frames, (index, _) in zip(generate(batch, advance), batch, strict=True):
                verdict = judge(frames)
                for label in right:
                    right[label] += getattr(verdict, label) == getattr(scenes[index], label)
    return {"prompts": count} | {label: hits / count for label, hits in right.items()}
