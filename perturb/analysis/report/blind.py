"""A blind test by people: one page with pairs of clips and no word of what they are, and its key in a file beside it.

What hides it: clips have names drawn at random, pairs and the two clips of a pair lie in random order, and every rater
sees another order and other sides, drawn from the rater's name; in half of the pairs each clip is on the left.
Clips are lossless here: compression flickers too.
"""

import dataclasses
import hashlib
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from perturb.analysis.load import find_runs, load
from perturb.analysis.report.blind_pairs import BlindSettings, Comparison, comparisons
from perturb.analysis.report.page import template, template_text
from perturb.analysis.report.player import Key, sprite
from perturb.analysis.strips import read_clip
from perturb.analysis.votes.files import ROLES, KeyRow, key_csv
from perturb.errors import UserError
from perturb.store.rundir import write_atomic

Trial = tuple[Comparison, Key]


def write_blind(paths: Sequence[str | Path], output: Path, settings: BlindSettings) -> list[Path]:
    """Write the page and its key; returns both paths.

    Raises UserError for runs without clips or without a twin, and for clips that are more than the page may hold.
    """
    page, rows = blind_page(comparisons(load(find_runs(paths)), settings.steps), settings)
    key = output.with_suffix(".key.csv")
    write_atomic(key, key_csv(rows))
    write_atomic(output, page)
    return [output, key]


def blind_page(found: Sequence[Comparison], settings: BlindSettings) -> tuple[str, list[KeyRow]]:
    """The page, and the rows of its key."""
    draw = random.Random(settings.seed)
    trials = _chosen([(comparison, key) for comparison in found for key in comparison.clips], settings.pairs, draw)
    names = _names(draw)
    pairs, rows, size = [], [], 0
    for number, trial in enumerate(trials):
        pair, own = _pair(trial, names, settings)
        draw.shuffle(pair["clips"])
        pairs.append(pair)
        rows += own
        size += sum(len(clip["sprite"]) for clip in pair["clips"])
        if size > settings.budget * 1e6:
            raise UserError(
                f"{number} of {len(trials)} pairs fit into --clips-mb {settings.budget:g}. Give more megabytes, fewer "
                f"pairs (--pairs {max(number, 1)}), or smaller clips (--clip-side)."
            )
    fps = found[0].sides[0].run.playback_fps
    content = {"question": settings.question, "ties": settings.ties, "fps": fps, "pairs": pairs}
    study = hashlib.sha256(repr(content).encode()).hexdigest()[:10]
    html = template("blind.html").render(
        content={"study": study, **content},
        style=Markup(template_text("page.css") + template_text("blind.css")),
        script=Markup(template_text("blind.js")),
    )
    return html, [dataclasses.replace(row, study=study) for row in rows]


def _pair(trial: Trial, names: Iterator[str], settings: BlindSettings) -> tuple[dict[str, Any], list[KeyRow]]:
    """One pair as the page has it, and its two rows of the key, which do not name the page yet."""
    (comparison, key), name = trial, next(names)
    clips, rows = [], []
    for role, side in zip(ROLES, comparison.sides, strict=True):
        frames = read_clip(side.clip(key))
        clip = next(names)
        clips.append({"id": clip, "frames": len(frames), "sprite": sprite([frames], settings.side, quality=None)})
        rows.append(
            KeyRow(
                *("", settings.question, name, clip, comparison.title, role, side.label, side.run.manifest.run_id),
                *(comparison.lora_seed, side.step, *key),
            )
        )
    return {"id": name, "clips": clips}, rows


def _chosen(trials: list[Trial], count: int | None, draw: random.Random) -> list[Trial]:
    """In random order; so many of them, shared evenly among the comparisons."""
    draw.shuffle(trials)
    if count is None:
        return trials
    seen: Counter[int] = Counter()
    turns = []
    for trial in trials:
        turns.append(seen[id(trial[0])])
        seen[id(trial[0])] += 1
    chosen = sorted(range(len(trials)), key=lambda i: turns[i])[:count]
    return [trials[i] for i in sorted(chosen)]


def _names(draw: random.Random) -> Iterator[str]:
    """Names that say nothing, no two alike."""
    used: set[str] = set()
    while True:
        name = f"{draw.getrandbits(32):08x}"
        if name not in used:
            used.add(name)
            yield name
