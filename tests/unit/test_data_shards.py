"""webdataset shards: bounded shuffle, whole epochs, positions to take up, splitting, damaged samples and tars."""

import http.server
import itertools
import json
import shutil
import threading
from functools import partial
from pathlib import Path

import pytest
from data_files import numbered, numbers, write_shard, write_video

from perturb.data.feed import FeedConfig, ShardFeed, open_feed
from perturb.data.shard_stream import this_process
from perturb.data.shards import ImageShards, VideoShards, expand_shards
from perturb.errors import UserError
from perturb.world.export import encode_png

STILL = encode_png(numbered(1)[0])


def make(folder: Path, counts: tuple[int, ...] = (5, 4, 6, 5)) -> str:
    """A folder of shards of small stills; sample i of all is captioned with its number."""
    folder.mkdir(exist_ok=True)
    number = itertools.count()
    for shard, count in enumerate(counts):
        files: dict[str, bytes] = {}
        for _ in range(count):
            key = next(number)
            files |= {f"{key:03d}.png": STILL, f"{key:03d}.txt": f"{key}".encode()}
        write_shard(folder / f"{shard:02d}.tar", files)
    return str(folder)


def feed(shards: str | list[str], *, rank: int = 0, world: int = 1, shuffle: int = 7, **changes) -> ShardFeed:
    size = FeedConfig(**({"seed": 5, "batch_size": 4, "frames": 4, "height": 2, "width": 2} | changes))
    return ShardFeed(ImageShards(shards, shuffle=shuffle), size, rank=rank, world=world)


def take(stream: ShardFeed, count: int) -> list[int]:
    """The numbers of the next samples, in batches of at most four."""
    found: list[int] = []
    while len(found) < count:
        found += [int(sample.caption) for sample in stream.samples(0, range(min(4, count - len(found))))]
    return found


def test_every_sample_comes_once_per_epoch_in_another_order_each_time(tmp_path: Path):
    stream = take(feed(make(tmp_path)), 80)
    epochs = [tuple(stream[i : i + 20]) for i in range(0, 80, 20)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(20))] * 4
    assert len(set(epochs)) == 4
    assert list(epochs[0]) != sorted(epochs[0])
    assert take(feed(str(tmp_path)), 80) == stream
    assert take(feed(str(tmp_path), seed=6), 80) != stream


def test_the_shuffle_is_bounded_and_without_it_shards_stay_whole(tmp_path: Path):
    stream = take(feed(make(tmp_path), shuffle=1), 20)
    shards = [{0, 1, 2, 3, 4}, {5, 6, 7, 8}, set(range(9, 15)), set(range(15, 20))]
    blocks = [
        list(group) for _, group in itertools.groupby(stream, lambda n: next(i for i, s in enumerate(shards) if n in s))
    ]
    assert [block == sorted(block) for block in blocks] == [True] * 4
    epochs = take(feed(str(tmp_path), shuffle=1), 60)
    assert len({tuple(epochs[i : i + 20]) for i in (0, 20, 40)}) == 3  # shards come in another order each time
    few = take(feed(str(tmp_path), shuffle=3), 20)
    assert few != stream
    # from three waiting samples, one that is read as number n cannot leave before place n − 2
    assert all(few.index(sample) >= stream.index(sample) - 2 for sample in range(20))


@pytest.mark.parametrize("taken", [0, 1, 3, 13, 19, 20, 21, 47])
def test_a_restored_position_goes_on_exactly(tmp_path: Path, taken: int):
    make(tmp_path)
    whole = take(feed(str(tmp_path)), 90)
    first = feed(str(tmp_path))
    assert take(first, taken) == whole[:taken]
    state = json.loads(json.dumps(first.state()))
    second = feed(str(tmp_path), threads=2)
    second.restore(state)
    assert take(second, 90 - taken) == whole[taken:]


def test_restoring_reads_no_more_than_the_shards_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    make(tmp_path, (3,) * 20)
    first = feed(str(tmp_path), shuffle=2)
    taken = take(first, 40)
    state, opened = first.state(), []
    from perturb.data import shard_stream

    real = shard_stream.read_shard
    monkeypatch.setattr(shard_stream, "read_shard", lambda url: opened.append(url) or real(url))
    second = feed(str(tmp_path), shuffle=2)
    second.restore(state)
    assert take(second, 1)[0] not in taken
    assert 1 <= len(set(opened)) <= 4


def test_a_position_of_something_else_is_refused(tmp_path: Path):
    state = feed(make(tmp_path)).state()
    for changed, message in (
        (feed(str(tmp_path), seed=6), "seed=5, now it is 6"),
        (feed(str(tmp_path), rank=1, world=2), "processes=1, now it is 2"),
        (feed(str(tmp_path), shuffle=8), "shuffle=7, now it is 8"),
        (feed(str(tmp_path / "0[0-2].tar")), "was made with shards="),
    ):
        with pytest.raises(UserError, match=message):
            changed.restore(state)
    with pytest.raises(UserError, match="process=0, now it is 1"):
        feed(str(tmp_path), rank=1, world=2).restore(feed(str(tmp_path), rank=0, world=2).state())


def test_processes_share_the_shards_of_an_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    make(tmp_path)
    parts = [feed(str(tmp_path), rank=rank, world=2) for rank in range(2)]
    # shards 1 and 3 hold nine samples, or 0 and 2 eleven, and so on: an epoch of the two together is all of them
    sizes = [sum((5, 4, 6, 5)[shard] for shard in part.stream.order) for part in parts]
    assert sorted(take(parts[0], sizes[0]) + take(parts[1], sizes[1])) == list(range(20))
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    found = open_feed(ImageShards(str(tmp_path), shuffle=7), parts[1].config)
    assert isinstance(found, ShardFeed)
    again = feed(str(tmp_path), rank=1, world=2)
    assert take(found, 15) == take(again, 15)
    monkeypatch.setenv("WORKER", "1")
    monkeypatch.setenv("NUM_WORKERS", "3")
    assert this_process() == (4, 6)  # the second of three readers in the second of two processes
    with pytest.raises(UserError, match="4 shards cannot be split among 5 processes"):
        feed(str(tmp_path), rank=0, world=5).samples(0, [0])


def test_damaged_samples_are_passed_over_and_listed(tmp_path: Path):
    files = {
        f"{i:02d}.{suffix}": content for i in range(30) for suffix, content in (("png", STILL), ("txt", b"%d" % i))
    }
    files |= {"03.png": STILL[:40], "07.txt": b"", "11.txt": b"\xff"}
    del files["05.png"]
    tar = write_shard(tmp_path / "a.tar", files)
    stream = feed(str(tar), max_broken_fraction=0.3)
    assert sorted(take(stream, 26)) == [i for i in range(30) if i not in (3, 5, 7, 11)]
    reasons = {path.rpartition("/")[2]: reason for path, reason in stream.breakage.report().files.items()}
    assert sorted(reasons) == ["03", "05", "07", "11"]
    assert "cannot be read as an image" in reasons["03"]
    assert reasons["05"] == "holds txt; wanted: one of .png, .jpg, .jpeg, .webp, .bmp, .tif, .tiff"
    assert reasons["07"].startswith("has no caption")
    assert "not UTF-8" in reasons["11"]
    assert (stream.breakage.report().count, stream.breakage.report().tried) == (4, 30)
    with pytest.raises(UserError, match=r"files could not be read, more than max_broken_fraction=0\.05.*a\.tar/"):
        take(feed(str(tar)), 60)


def test_a_cut_shard_gives_what_it_holds_and_is_counted_against_the_shards(tmp_path: Path):
    make(tmp_path)
    cut = tmp_path / "02.tar"
    cut.write_bytes(cut.read_bytes()[: 512 * 11 + 100])  # in the third sample: a sample is two files of 1024 bytes
    stream = feed(str(tmp_path), max_broken_fraction=0.25)
    found = take(stream, 16)
    assert sorted(found)[:9] == list(range(9))
    assert sorted(found)[-5:] == [15, 16, 17, 18, 19]
    assert list(stream.breakage.report().files) == [str(cut)]
    assert "cannot be read as a shard" in stream.breakage.report().files[str(cut)]
    with pytest.raises(
        UserError, match=r"1 shards could not be read to their end, more than max_broken_fraction=0\.05"
    ):
        take(feed(str(tmp_path)), 20)


def test_shards_without_samples_end(tmp_path: Path):
    write_shard(tmp_path / "a.tar", {})
    with pytest.raises(UserError, match=r"no samples in 1 shards, e\.g\. .*a\.tar"):
        feed(str(tmp_path / "a.tar")).samples(0, [0])


def test_videos_with_notes_in_json(tmp_path: Path):
    clip = write_video(tmp_path / "a.mp4", numbered(20)).read_bytes()
    lying = write_video(tmp_path / "b.mp4", numbered(20), rate=5000).read_bytes()
    files = {
        "0.mp4": clip,
        "0.txt": b"plain",
        "1.json": b'{"caption": " from  json ", "fps": 12}',
        "1.mp4": clip,
        "2.json": b'{"caption": "corrected", "fps": 24}',
        "2.mp4": lying,
        "3.json": b'{"caption": "wrong"}',
        "3.mp4": lying,
        "4.json": b"{",
        "4.mp4": clip,
        "5.txt": b"cut",
        "5.mp4": clip[: len(clip) // 2],
    }
    write_shard(tmp_path / "a.tar", files)
    shards = VideoShards(str(tmp_path / "a.tar"), stride={"min": 2, "max": 2})
    size = FeedConfig(seed=5, batch_size=4, frames=4, height=32, width=32, max_broken_fraction=1)
    stream = ShardFeed(shards, size, rank=0, world=1)
    samples = {sample.caption: sample for sample in stream.samples(0, range(3))}
    assert {caption: sample.fps for caption, sample in samples.items()} == {
        "plain": 12,
        "from json": 6,
        "corrected": 12,
    }
    for sample in samples.values():
        start = numbers(sample.frames)[0]
        assert numbers(sample.frames) == [start, start + 2, start + 4, start + 6]
    reasons = {path[-1]: reason for path, reason in stream.breakage.report().files.items()}
    assert sorted(reasons) == ["3", "4", "5"]
    assert "its frames have 5000 per second" in reasons["3"]
    assert "its .json cannot be read" in reasons["4"]
    # other draws in every epoch, the same draws whatever the batch
    starts = [numbers(sample.frames)[0] for sample in stream.samples(0, range(12))]
    assert len(set(starts)) > 3


def test_shards_by_glob_braces_folder_and_list(tmp_path: Path):
    make(tmp_path / "some shards")
    every = [str(tmp_path / f"some shards/0{i}.tar") for i in range(4)]
    for text in ("some shards", "some shards/*.tar", "some shards/{00..03}.tar"):
        assert expand_shards(str(tmp_path / text)) == every
    assert expand_shards([every[2], str(tmp_path / "some shards/{00,03}.tar")]) == [every[2], every[0], every[3]]
    assert expand_shards("https://example.org/{000..002}.tar?x=1") == [
        f"https://example.org/00{i}.tar?x=1" for i in range(3)
    ]
    for text in ("absent.tar", "*.tgz", "some shards/{02..04}.tar"):
        with pytest.raises(UserError, match="no shard "):
            expand_shards(str(tmp_path / text))
    with pytest.raises(UserError, match="braces do not match"):
        expand_shards(str(tmp_path / "some shards/{00.tar"))
    with pytest.raises(UserError, match="names 1 shards twice"):
        expand_shards([every[0], str(tmp_path / "some shards/00.tar")])


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves a folder without a word."""

    def log_message(self, format: str, *args) -> None:
        del format, args


@pytest.mark.skipif(shutil.which("curl") is None, reason="webdataset opens http with curl, which is not installed")
def test_shards_from_urls(tmp_path: Path):
    make(tmp_path)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        address = f"http://127.0.0.1:{server.server_address[1]}"
        streamed = take(feed(f"{address}/{{00..03}}.tar"), 30)
        assert streamed == take(feed(str(tmp_path)), 30) == take(feed(f"file:{tmp_path}/{{00..03}}.tar"), 30)
        with pytest.raises(UserError, match=r"shards could not be read to their end.*absent\.tar"):
            take(feed(f"{address}/absent.tar"), 1)
    finally:
        server.shutdown()
        server.server_close()
