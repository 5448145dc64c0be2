"""The engine: what is measured once is kept, what fails stays alone, and memory does not grow with the clips."""

import pickle
import weakref
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from engine_metrics import Level, Spread, broken, flat, killed, source

from perturb.metrics import Clip, ClipSource, Context, Engine, Scores, Value, score_clips
from perturb.metrics.scoring.cache import clip_digest
from perturb.metrics.scoring.engine import BATCH


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log.txt"


def asked(log: Path) -> list[str]:
    """What the metrics were asked since the last look."""
    lines = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return lines


def run(
    metrics: Sequence[Level | Spread], clips: Sequence[ClipSource], cache: Path | None, *, workers: int = 1, mixed=False
) -> Scores:
    with Engine(metrics, cache, workers=workers, mixed=mixed) as engine:
        return engine.scores(engine.measure(clips))


def column(scores: Scores, name: str) -> list[Value]:
    return [clip.values[name] for clip in scores.clips]


def test_a_second_scoring_asks_nothing_and_gives_the_same(log: Path, tmp_path: Path) -> None:
    clips = [source("a", 7), source("b", 9)]
    first = run([Level(log), Spread(log)], clips, tmp_path / "cache")
    assert asked(log) == ["level:a", "spread:a", "level:b", "spread:b"]
    again = run([Level(log), Spread(log)], clips, tmp_path / "cache")
    assert asked(log) == []
    assert [dict(clip.values) for clip in again.clips] == [dict(clip.values) for clip in first.clips]
    assert again.whole == first.whole
    assert first.whole["spread"] == Value.of(2)
    assert column(first, "height") == [Value.of(0), Value.of(2)]


def test_only_what_is_new_is_measured(log: Path, tmp_path: Path) -> None:
    clips, cache = [source("a", 7), source("b", 9)], tmp_path / "cache"
    run([Level(log)], clips, cache)
    asked(log)
    run([Level(log), Level(log, "more")], clips, cache)
    assert asked(log) == ["more:a", "more:b"]
    run([Level(log), Level(log, "more")], [*clips, source("c", 1)], cache)
    assert asked(log) == ["level:c", "more:c"]
    run([Level(log, version=2)], clips, cache)
    assert asked(log) == ["level:a", "level:b"]


def test_the_key_is_the_content_not_the_name(log: Path, tmp_path: Path) -> None:
    run([Level(log)], [source("a", 7)], tmp_path / "cache")
    asked(log)
    run([Level(log)], [source("renamed", 7)], tmp_path / "cache")
    assert asked(log) == []
    for other in (source("a", 8), source("a", 7, fps=9), source("a", 7, size=9)):
        run([Level(log)], [other], tmp_path / "cache")
        assert asked(log) == ["level:a"]


def test_every_part_of_a_clip_that_a_metric_sees_is_in_its_digest() -> None:
    frames = np.arange(2 * 4 * 6 * 3, dtype=np.uint8).reshape(2, 4, 6, 3)
    clip = Clip(frames, 8.0, "p", 0, 0, "a text")
    same = Clip(np.asfortranarray(frames), 8, "q", 1, 5, "a text")
    assert clip_digest(same) == clip_digest(clip)
    others = [Clip(frames.reshape(2, 6, 4, 3), 8.0, "p", 0, 0, "a text"), Clip(frames, 9.0, "p", 0, 0, "a text")]
    others += [Clip(frames, 8.0, "p", 0, 0, ""), Clip(frames[::-1], 8.0, "p", 0, 0, "a text")]
    assert len({clip_digest(one) for one in [clip, *others]}) == 5


def test_a_paired_metric_is_kept_for_its_pair(log: Path, tmp_path: Path) -> None:
    drift, cache = Level(log, "drift", paired=True), tmp_path / "cache"
    scores = run([drift], [source("a", 7, original=source("a", 3)), source("b", 7)], cache)
    assert column(scores, "drift")[0] == Value.of(4)
    assert column(scores, "drift")[1].status == "unavailable" or "step-0" in column(scores, "drift")[1].reason
    asked(log)
    assert column(run([drift], [source("a", 7, original=source("a", 5))], cache), "drift") == [Value.of(2)]
    assert asked(log) == ["drift:a"]
    assert column(run([drift], [source("a", 7, original=source("a", 3))], cache), "drift") == [Value.of(4)]
    assert asked(log) == []
    scores = run([drift, Level(log)], [source("a", 7, original=broken("a"))], cache)
    assert column(scores, "drift")[0].reason == "the clip to compare with cannot be read: is torn"
    assert column(scores, "level") == [Value.of(7)]


def test_failures_and_absent_weights_are_tried_again(log: Path, tmp_path: Path) -> None:
    clips, cache = [source("a", 7), source("b", 13)], tmp_path / "cache"
    scores = run([Level(log), Spread(log)], clips, cache)
    assert [value.status for value in column(scores, "level")] == ["ok", "failed"]
    assert column(scores, "height")[1] == Value.failed("13")
    asked(log)
    run([Level(log), Spread(log)], clips, cache)
    assert asked(log) == ["level:b", "spread:b"]
    scores = run([Level(log, "heavy", weights=False)], clips, cache)
    assert column(scores, "heavy") == [Value.unavailable("no weights here")] * 2
    assert asked(log) == []
    scores = run([Level(log, "heavy")], clips, cache)
    assert column(scores, "heavy")[0] == Value.of(7)


def test_batches_hold_several_clips_and_one_that_fails_fails_alone(log: Path, tmp_path: Path) -> None:
    clips = [source(f"c{i}", 13 if i == 2 else i) for i in range(10)]
    scores = run([Level(log, batched=True)], clips, tmp_path / "cache")
    assert [value.value for value in column(scores, "level")] == [0, 1, None, 3, 4, 5, 6, 7, 8, 9]
    lines = asked(log)
    assert lines[0] == "level:c0,c1,c2,c3,c4,c5,c6,c7"
    assert lines[-1] == "level:c8,c9"
    run([Level(log, batched=True)], [source("new", 99), *clips], tmp_path / "cache")
    assert asked(log)[0] == "level:new,c2"


def test_a_broken_clip_has_its_reason_everywhere_and_is_in_no_set(log: Path) -> None:
    metrics = [Level(log), Spread(log), Level(log, "heavy", weights=False)]
    scores = run(metrics, [source("a", 1), broken("torn"), source("b", 5)], None)
    assert scores.clips[1].problem == "is torn"
    assert scores.clips[1].format is None
    assert set(scores.clips[1].values.values()) == {Value.failed("is torn")}
    assert scores.whole["spread"] == Value.of(4)
    assert column(scores, "height")[2] == Value.of(4)
    assert run(metrics, [broken("torn")], None).whole["spread"].status == "failed"


def test_sets_are_compared_with_the_reference(log: Path) -> None:
    with Engine([Level(log), Spread(log)], None) as engine:
        reference = engine.gather([source("x", 0), broken("torn"), source("y", 50)])
        assert asked(log) == ["spread:x", "spread:y"]  # nothing else is measured of it
        own = engine.measure([source("a", 7)])
        assert engine.scores(own, reference).whole["reference_spread"] == Value.of(50)
        assert engine.scores(own).whole["reference_spread"].status == "unavailable"
        assert engine.scores(own, engine.gather([broken("torn")])).whole["reference_spread"].status == "unavailable"


def test_what_depends_on_fps_or_size_refuses_mixed_clips_unless_told(log: Path) -> None:
    metrics = [Level(log), Level(log, "speed", depends=("fps",)), Level(log, "area", depends=("size",))]
    mixed = [source("a", 1), source("b", 2, fps=24), broken("torn")]
    scores = run(metrics, mixed, None)
    assert [value.status for value in column(scores, "level")] == ["ok", "ok", "failed"]
    assert [value.status for value in column(scores, "speed")] == ["unavailable", "unavailable", "failed"]
    assert "fps (24, 8)" in column(scores, "speed")[0].reason
    assert [value.status for value in column(scores, "area")] == ["ok", "ok", "failed"]
    assert [value.value for value in column(run(metrics, mixed, None, mixed=True), "speed")] == [1, 2, None]
    sizes = run(metrics, [source("a", 1), source("b", 2, size=9)], None)
    assert "size (8×8, 9×9)" in column(sizes, "area")[0].reason


def test_several_processes_give_the_same_and_one_that_dies_costs_one_clip(log: Path, tmp_path: Path) -> None:
    clips = [source(f"c{i}", i) for i in range(6)]
    clips.insert(2, ClipSource("fatal", killed, "fatal"))
    metrics = [Level(log), Level(log, "batch", batched=True), Spread(log)]
    together = run(metrics, clips, tmp_path / "cache", workers=2)
    assert [clip.source.name for clip in together.clips] == [clip.name for clip in clips]
    assert together.clips[2].problem == "the process that scored the clip died (SIGKILL, as when memory runs out)"
    assert [clip.problem for clip in together.clips if clip.source.name != "fatal"] == [""] * 6
    del clips[2]
    alone = run(metrics, clips, None)
    assert together.whole == alone.whole
    found = [dict(clip.values) for clip in together.clips if clip.source.name != "fatal"]
    assert found == [dict(clip.values) for clip in alone.clips]


def test_damaged_files_of_the_cache_are_measured_again(log: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    run([Level(log), Spread(log)], [source("a", 7)], cache)
    asked(log)
    for file in cache.rglob("*.*"):
        file.write_bytes(file.read_bytes()[:5])
    assert run([Level(log), Spread(log)], [source("a", 7)], cache).whole["spread"] == Value.of(0)
    assert asked(log) == ["level:a", "spread:a"]


def test_memory_stays_flat_over_10_000_clips(log: Path) -> None:
    alive = most = 0

    def read(i: int) -> tuple[np.ndarray, float]:
        nonlocal alive, most
        frames = flat(i % 200)
        alive, most = alive + 1, max(most, alive + 1)
        weakref.finalize(frames, gone)
        return frames, 8.0

    def gone() -> None:
        nonlocal alive
        alive -= 1

    with Engine([Level(log), Level(log, "batch", batched=True), Spread(log)], None) as engine:
        survey = engine.measure(ClipSource(f"c{i}", partial(read, i), f"c{i}") for i in range(10_000))
        assert len(survey) == 10_000
        assert most <= BATCH + 1
        assert alive == 0
        per_clip = len(pickle.dumps([measured for _, measured in survey])) / 10_000
        assert per_clip < 1000  # bytes that stay: numbers and names, no pixels
        assert engine.scores(survey).whole["spread"].status == "ok"


def test_clips_in_memory_are_scored_by_the_same_engine(log: Path) -> None:
    clips = [Clip(flat(level), 8.0, f"c{level}", 0, 0) for level in (3, 4)]
    rows = score_clips([Level(log, paired=True), Spread(log)], clips, Context({clips[0].sample: clips[1]}))
    got = [(clip and clip.prompt_id, i.name, value.value) for clip, i, value in rows]
    assert got == [
        ("c3", "level", -1),
        ("c4", "level", None),
        (None, "spread", 1),
        (None, "reference_spread", 0),
        ("c3", "height", 0),
        ("c4", "height", 1),
    ]
