"""How often the clips of a model of the embedded world show what their prompts name, judged from the pixels."""

from perturb.data.prompts import Prompt
from perturb.diffusion import DDIMSampler
from perturb.errors import UserError
from perturb.models.videocrafter.system import VideoSystem
from perturb.progress import progress
from perturb.study.sample import Generator, SampleConfig
from perturb.world import judge
from perturb.world.scenes import DIRECTIONS, Scene, held_out_captions, scene

STREAM = 2000  # scenes of the judged prompts; their label combinations are held out of every training set


def held_out_scenes(count: int) -> list[Scene]:
    """``count`` held-out scenes with different captions, as evenly over the directions as captions allow.

    Raises UserError for more than there are.
    """
    captions = held_out_captions()
    if count > len(captions):
        raise UserError(f"oracle is {count}; allowed: up to {len(captions)}, the captions held out of all training")
    scenes: dict[str, Scene] = {}
    index = 0
    while len(scenes) < len(captions):
        candidate = scene(STREAM, index, held_out=True)
        scenes.setdefault(candidate.caption, candidate)
        index += 1
    turns = dict.fromkeys(DIRECTIONS, 0)
    ranked = []
    for here in scenes.values():
        ranked.append((turns[here.direction], here))
        turns[here.direction] += 1
    return [here for _, here in sorted(ranked, key=lambda pair: pair[0])[:count]]


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
