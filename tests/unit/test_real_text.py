"""Captions, prompts and tables as people have them: quotes, nesting, millions of rows, dots in names, long prompts."""

import json
import logging
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow
import pytest
from data_files import load, mutated, numbered, write_shard, write_video
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image
from pyarrow import parquet

from perturb.data import table_files, tables
from perturb.data.collection import match_prompts
from perturb.data.feed import FeedConfig, IndexedFeed, ShardFeed
from perturb.data.images import ImageFolder
from perturb.data.prompts import LONGEST_ID, Prompt, load_prompts
from perturb.data.shards import ImageShards, VideoShards
from perturb.data.source import BrokenSample
from perturb.data.stills import ImageTable, still_table
from perturb.data.tables import Table
from perturb.data.videos import VideoFolder, VideoTable
from perturb.diffusion import DDIMSampler
from perturb.errors import UserError
from perturb.models.videocrafter import system
from perturb.models.videocrafter.tokenizer import ClipTokenizer, FileTokenizer, check_lengths
from perturb.store.paths import conf_dir
from perturb.structured import build
from perturb.study.sample import Generator, SampleConfig
from perturb.world.export import encode_png

STILL = encode_png(numbered(1)[0])
WANTED = {"file": ("file", "path"), "caption": ("caption", "text")}


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def picture(path: Path, level: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 4, 3), level, np.uint8)).save(path, "PNG")
    return path


# What reads a csv of files and texts: each is given the same table, and must name the same line.
READERS: dict[str, Callable[[Path], Any]] = {
    "images": ImageTable,
    "training stills": still_table,
    "training videos": VideoTable,
    "captions of a folder": lambda table: ImageFolder(table.parent, table),
    "captions of videos": lambda table: VideoFolder(table.parent, table),
    "prompts of clips": lambda table: match_prompts(table, ["0.png", "1.png", "2.png", "3.png"]),
    "prompts": load_prompts,
}


@pytest.fixture(params=READERS)
def reader(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Path], Any]:
    for number in range(4):
        picture(tmp_path / f"{number}.png", number)
    write_video(tmp_path / "4.mp4", numbered(3))
    return READERS[request.param]


UNCLOSED = {
    "then a quoted one": '0.png,"a cat\n1.png,a dog\n2.png,"a bird"\n3.png,a fish\n',
    "until the end": '0.png,"a cat\n1.png,a dog\n2.png,a bird\n3.png,a fish\n',
    "within a text": '0.png,a cat\n1.png,"a "big" dog"\n2.png,a bird\n3.png,a fish\n',
}


@pytest.mark.parametrize("kind", UNCLOSED)
def test_an_unclosed_quote_swallows_nothing(reader: Callable[[Path], Any], kind: str, tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", "file,caption\n" + UNCLOSED[kind])
    line = 3 if kind == "within a text" else 2
    with pytest.raises(UserError, match=rf"t\.csv, line {line} is not csv: .*a quote that is not closed"):
        reader(table)


def test_a_prompt_of_two_lines_is_a_swallowed_row_and_a_caption_may_have_them(tmp_path: Path) -> None:
    table = write(tmp_path / "p.csv", 'id,prompt\n1,"a cat\n2,a dog"\n3,a bird\n')
    with pytest.raises(UserError, match=r"the prompt 'a cat' goes on in the next line with '2,a dog'; close its quote"):
        load_prompts(table)
    picture(tmp_path / "a.png", 0)
    images = ImageTable(write(tmp_path / "t.csv", 'file,caption\na.png,"a cat,\nsitting ""there"""\na.png,x\n'))
    assert [images.caption(i) for i in range(2)] == ['a cat,\nsitting "there"', "x"]


NO_TEXTS = {"list": ["a", "cat"], "object": {"en": "a cat"}, "yes": True}


@pytest.mark.parametrize("kind", NO_TEXTS)
def test_what_is_no_text_is_refused_with_its_line(reader: Callable[[Path], Any], kind: str, tmp_path: Path) -> None:
    rows = [{"file": f"{number}.png", "caption": f"text {number}"} for number in range(4)]
    rows[2]["caption"] = cast(Any, NO_TEXTS[kind])
    table = write(tmp_path / "t.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    name = type(NO_TEXTS[kind]).__name__
    with pytest.raises(UserError, match=rf"t\.jsonl, line 3 has {name} .* under 'caption', where a text belongs"):
        reader(table)


def test_numbers_are_texts_and_lists_in_parquet_and_shards_are_none(tmp_path: Path) -> None:
    assert load_prompts(write(tmp_path / "p.jsonl", '{"prompt": 7, "id": 3}\n')) == [Prompt("3", "7")]
    parquet.write_table(pyarrow.table({"file": ["a.png"], "caption": [["a", "cat"]]}), tmp_path / "t.parquet")
    with pytest.raises(UserError, match=r"row 1 has list .* where a text belongs"):
        ImageTable(tmp_path / "t.parquet")
    shard = write_shard(tmp_path / "a.tar", {"0.png": STILL, "0.json": b'{"caption": ["a", "cat"]}'})
    assert "its caption is no text but ['a', 'cat']" in broken(ImageShards(str(shard)))


BAD_LINES = {
    "half a character": ('{"file": "0.png", "caption": "\\ud83d"}', "half a character"),
    "a deep nest": ("[" * 100_000, "nested too deeply|is not JSON"),
    "a long number": ('{"file": "0.png", "caption": ' + "7" * 5000 + "}", "is not JSON"),
    "not UTF-8": (b'{"file": "0.png", "caption": "K\xe4se"}', "is not UTF-8 text"),
    "cut": ('{"file": "0.png", "capt', "is not JSON"),
    "no object": ("[1, 2]", "is not a JSON object"),
}


@pytest.mark.parametrize("kind", BAD_LINES)
def test_a_line_that_cannot_be_read_is_named(kind: str, tmp_path: Path) -> None:
    line, reason = BAD_LINES[kind]
    good = b'{"file": "a.png", "caption": "x"}\n'
    table = write(tmp_path / "t.jsonl", good * 2 + b"\n" + (line if isinstance(line, bytes) else line.encode()) + b"\n")
    with pytest.raises(UserError, match=rf"t\.jsonl, line 4 .*({reason})"):
        Table(table, WANTED)


def test_headings_are_checked_and_may_be_padded(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has two columns 'caption': rename one"):
        Table(write(tmp_path / "t.csv", "file,caption,caption\na,b,c\n"), WANTED)
    table = Table(write(tmp_path / "t.CSV", "\ufefffile , caption\r\na.png , a cat \r\n\r\nb.png,x"), WANTED)
    assert list(table.texts()) == [{"file": "a.png", "caption": "a cat"}, {"file": "b.png", "caption": "x"}]


def test_a_table_that_may_not_be_read_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    for name in ("t.csv", "t.jsonl", "p.txt"):
        write(tmp_path / name, "file,caption\n")
    monkeypatch.setattr(Path, "open", refuse)
    for name in ("t.csv", "t.jsonl", "p.txt"):
        with pytest.raises(UserError, match="cannot be read: Permission denied"):
            load_prompts(tmp_path / name)


# --- shapes of known tables -----------------------------------------------------------------------------------------


def journey(number: int) -> dict[str, Any]:
    """A row as in JourneyDB's annotation."""
    return {
        "img_path": f"./{number:03}/{number}.png",
        "prompt": f"prompt {number} --ar 3:2",
        "Task2": {"Caption": f"caption {number}"},
        "Task3": {"Style": ["oil"], "Content": [{"Question": "?"}]},
    }


@pytest.fixture
def annotation(tmp_path: Path) -> Path:
    for number in range(3):
        picture(tmp_path / f"{number:03}/{number}.png", 100 + number)
    return write(tmp_path / "train_anno.jsonl", "".join(json.dumps(journey(number)) + "\n" for number in range(3)))


NESTED = {"file": "img_path", "caption": "Task2.Caption"}


def test_journeydb_is_known_and_its_nested_captions_can_be_named(annotation: Path) -> None:
    images = ImageTable(annotation)
    assert [images.caption(i) for i in range(3)] == [f"prompt {i} --ar 3:2" for i in range(3)]
    assert round(float(images.picture(2)[0, 0, 0]) * 255) == 102
    named = ImageTable(annotation, columns=NESTED)
    assert [named.caption(i) for i in range(3)] == [f"caption {i}" for i in range(3)]
    described = named.describe()
    assert described["columns"] == NESTED
    assert json.loads(json.dumps(described)) == described  # a resumed run compares it with its manifest
    folder = ImageFolder(annotation.parent, annotation.name, columns=NESTED)
    assert [folder.caption(i) for i in range(3)] == [f"caption {i}" for i in range(3)]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet", "csv"])
def test_columns_can_be_named_in_every_table(suffix: str, tmp_path: Path) -> None:
    rows = [{"clip": f"{n}.mp4", "info": {"texts": {"en": f"text {n}"}}, "key.id": f"k{n}"} for n in range(3)]
    path = tmp_path / f"t.{suffix}"
    if suffix == "parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif suffix == "jsonl":
        write(path, "".join(json.dumps(row) + "\n" for row in rows))
    else:
        lines = [f"{row['clip']},{row['info']['texts']['en']},{row['key.id']}\n" for row in rows]
        write(path, "clip,info.texts.en,key.id\n" + "".join(lines))
    text = "info.texts.en"
    videos = VideoTable(path, columns={"file": "clip", "caption": text})
    assert (list(videos.names), list(videos.captions)) == (
        [f"{n}.mp4" for n in range(3)],
        [f"text {n}" for n in range(3)],
    )
    assert load_prompts(path, columns={"prompt": text, "id": "key.id"}) == [
        Prompt(f"k{n}", f"text {n}") for n in range(3)
    ]
    matched = match_prompts(path, [f"{n}.mp4" for n in range(3)], {"file": "clip", "prompt": text})
    assert [one.text for one in matched] == [f"text {n}" for n in range(3)]


def test_a_named_column_is_the_only_one_and_wrong_names_are_errors(annotation: Path, tmp_path: Path) -> None:
    rows = [journey(0), {**journey(1), "Task2": {}}]
    lacking = write(tmp_path / "t.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match=r"1 of 2 rows of .* have no caption, e\.g\. line 2"):
        ImageTable(lacking, columns=NESTED)  # not silently its prompt
    with pytest.raises(UserError, match=r"has no column Task9\.Caption; it has img_path, prompt, Task2, Task3"):
        ImageTable(annotation, columns={"caption": "Task9.Caption"})
    with pytest.raises(UserError, match=r"columns\.title='x'; allowed: a heading for file, caption"):
        ImageTable(annotation, columns={"title": "x"})


def test_columns_are_named_on_the_command_line_as_everything_else(annotation: Path) -> None:
    given = [f"images.table={annotation}", "images.columns.caption=Task2.Caption"]
    with initialize_config_dir(str(conf_dir()), version_base=None):
        values: Any = OmegaConf.to_container(
            compose("config", ["experiment=spatial_full", "images=table", *given]).images
        )
    images: Any = build("images", values)
    assert [images.caption(i) for i in range(3)] == [f"caption {i}" for i in range(3)]
    assert images.describe()["columns"] == {"caption": "Task2.Caption"}


def test_img2dataset_s_table_of_laion_coco_is_known(tmp_path: Path) -> None:
    picture(tmp_path / "00001/000010002.jpg", 80)
    rows = [{"key": "000010002", "url": "https://example.org/a.jpg", "top_caption": "a cat", "all_captions": ["b"]}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "00001.parquet")
    images = ImageTable(tmp_path / "00001.parquet")
    assert (images.name(0), images.caption(0)) == ("00001/000010002.jpg", "a cat")
    assert round(float(images.picture(0)[0, 0, 0]) * 255) == 80


def test_a_long_table_is_opened_by_its_places_and_late_damage_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture(tmp_path / "a.png", 9)
    lines = [json.dumps({"file": "a.png", "caption": f"text {n} " + "x" * 300}) + "\n" for n in range(20_000)]
    lines[7777] = "no json\n"
    table = write(tmp_path / "t.jsonl", "".join(lines))
    monkeypatch.setattr(tables, "CHECKED", 100)
    monkeypatch.setattr(table_files, "CHUNK", 4096)  # lines cross the borders of chunks
    tracemalloc.start()
    source = still_table(table)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < table.stat().st_size / 4  # the texts, 7 MB, are not kept
    assert len(source) == 20_000
    for number in (0, 13, 7776, 7778, 19_999):
        assert source.images.caption(number).startswith(f"text {number} ")
    with pytest.raises(BrokenSample, match=r"t\.jsonl, line 7778: is not JSON"):
        load(source, 7777)
    feed = IndexedFeed(source, FeedConfig(seed=0, batch_size=20_000, frames=1, height=1, width=1))
    place = next(p for p in range(20_000) if feed._index(0, p) == 7777)
    feed.samples(0, [place])
    assert list(feed.breakage.report().files) == [f"{table}, line 7778"]


def test_rows_of_a_csv_with_texts_of_several_lines_are_found_by_number(tmp_path: Path) -> None:
    texts = [f'line {n}\n"quoted", {n}' * (n % 3) + f"end {n}" for n in range(50)]
    quoted = ['"{}"'.format(text.replace('"', '""')) for text in texts]
    body = "".join(f"{n}.png,{text}\n" for n, text in enumerate(quoted))
    table = Table(write(tmp_path / "t.csv", "file,caption\n" + body), WANTED)
    assert [table.row(number)["caption"] for number in range(50)] == texts
    assert table.column("caption")[-1] == texts[-1]
    assert list(table.column("file")[3:5]) == ["3.png", "4.png"]


# --- shards ---------------------------------------------------------------------------------------------------------


def shard_feed(shards: Any, **options: Any) -> ShardFeed:
    size = {"seed": 5, "batch_size": 4, "frames": 2, "height": 8, "width": 8, "max_broken_fraction": 1.0}
    return ShardFeed(shards, FeedConfig(**(size | options)), rank=0, world=1)


def broken(shards: Any) -> str:
    """Why the only sample of the shards is broken."""
    feed = shard_feed(shards)
    with pytest.raises(UserError, match="no sample of a whole epoch could be read"):
        feed.samples(0, [0])
    return next(iter(feed.breakage.report().files.values()))


def test_names_with_dots_are_matched_by_webdataset_s_rule(tmp_path: Path) -> None:
    clip = write_video(tmp_path / "a.mp4", numbered(9)).read_bytes()
    files = {"a.v1.mp4": clip, "a.v1.txt": b"first", "b.mp4": clip, "b.json": b'{"caption": "second"}'}
    files |= {"c.1.0.mp4": clip, "c.1.0.json": b'{"caption": "third", "fps": 12}', "d.x.mp4": clip, "d.txt": b"fourth"}
    videos = VideoShards(str(write_shard(tmp_path / "a.tar", files)), stride={"min": 1, "max": 1})
    found = {sample.caption: sample.fps for sample in shard_feed(videos).samples(0, range(4))}
    assert found == {"first": 24, "second": 24, "third": 12, "fourth": 24}


@pytest.mark.parametrize("kind", ["png", "mp4", "gif"])
def test_samples_that_the_rule_joins_are_named(tmp_path: Path, kind: str) -> None:
    files = {f"cat.{n}.{kind}": b"x" for n in range(2)} | {f"cat.{n}.txt": b"a cat" for n in range(2)}
    shard = str(write_shard(tmp_path / "a.tar", files))
    reason = broken(ImageShards(shard) if kind == "png" else VideoShards(shard))
    assert f"holds 0.{kind}, 0.txt, 1.{kind}, 1.txt" in reason
    assert "a name ends at its first dot, so these became one sample" in reason


def test_a_picture_beside_a_video_is_not_the_video(tmp_path: Path) -> None:
    clip = write_video(tmp_path / "a.mp4", numbered(9)).read_bytes()
    files = {"0.png": STILL, "0.mp4": clip, "0.txt": b"a cat"}
    videos = VideoShards(str(write_shard(tmp_path / "a.tar", files)), stride={"min": 1, "max": 1})
    assert shard_feed(videos).samples(0, [0])[0].frames.shape == (3, 2, 8, 8)


# --- prompts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("id", ["x" * (LONGEST_ID + 1), "ü" * (LONGEST_ID // 2 + 1)])
def test_an_id_too_long_for_a_file_name_is_refused_when_read(id: str, tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", json.dumps({"id": id, "prompt": "a cat"}) + "\n")
    with pytest.raises(UserError, match="too long for a file name: at most 200 bytes"):
        load_prompts(path)
    good = write(tmp_path / "q.jsonl", json.dumps({"id": id[: LONGEST_ID // 2], "prompt": "a cat"}) + "\n")
    assert write(tmp_path / f"{load_prompts(good)[0].id}_s{2**31}.npy", "x").is_file()


def words(count: int) -> str:
    return " ".join(["cat"] * count)


def test_long_prompts_are_counted_once_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    clip = ClipTokenizer(77)
    assert clip.lengths(["a cat", words(75), words(76), "", words(3000), "!!"]) == [4, 77, 78, 2, 3002, 3]
    with caplog.at_level(logging.WARNING):
        check_lengths(
            clip, {"short": "a cat", "full": words(70), "long": words(90) + " left", "longer": "a " + words(99)}
        )
    assert [record.getMessage() for record in caplog.records] == [
        "2 of 4 prompts are longer than the 77 tokens that the model reads; the rest of them is left out: long, longer"
    ]
    caplog.clear()
    check_lengths(clip, {"short": "a cat", "same": "A  cat", "full": words(75)})
    check_lengths(FileTokenizer.from_words(["cat"], 5), {"a": words(3)})
    assert not caplog.records


@pytest.mark.parametrize(
    ("one", "other"), [(words(90) + " left", words(90) + " right"), (words(75), words(80)), (words(80), words(75))]
)
def test_prompts_that_the_cut_makes_equal_are_an_error(one: str, other: str) -> None:
    with pytest.raises(UserError, match="the prompts a and b differ only beyond the 77 tokens that the model reads"):
        check_lengths(ClipTokenizer(77), {"a": one, "b": other, "c": "a dog"})


def test_a_caption_that_is_cut_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    clip = ClipTokenizer(77)
    clip([words(75), "a cat"])  # 75 and both ends just fit
    assert not caplog.records
    cut, again = clip([words(76)]), clip(["a dog", words(200)])
    assert (int(cut[0, -1]), int(again[1, -1])) == (49407, 49407)
    assert [record.message[:48] for record in caplog.records] == ["a text is longer than the 77 tokens that the mod"]


def test_the_generator_asks_the_model_what_it_cannot_tell_apart(
    monkeypatch: pytest.MonkeyPatch, tiny_system: Any
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(system, "check_lengths", lambda tokenizer, prompts: seen.append((tokenizer, prompts)))
    prompt = Prompt("p000", "a red circle moving left slowly on a gray background")
    Generator(tiny_system, DDIMSampler(), [prompt], SampleConfig(), image=None)
    assert seen == [(tiny_system.tokenizer, {"p000": prompt.text})]


def test_a_mutated_table_is_read_or_named(tmp_path: Path) -> None:
    random = np.random.default_rng(23)
    rows = [{"file": f"{n}.png", "caption": f'text "{n}", of ä', "id": f"k{n}", "fps": 8} for n in range(6)]
    quoted = ['{file},"{text}",{id},{fps}\n'.format(text=row["caption"].replace('"', '""'), **row) for row in rows]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "x.parquet")
    originals = {
        "csv": ("file,caption,id,fps\n" + "".join(quoted)).encode(),
        "jsonl": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode(),
        "parquet": (tmp_path / "x.parquet").read_bytes(),
        "txt": "".join(f"{row['caption']}\n" for row in rows).encode(),
    }
    readers: list[Callable[[Path], Any]] = [
        lambda table: [list(ImageTable(table, max_corrupt_fraction=None).captions), list(VideoTable(table).names)],
        lambda table: [prompt.text for prompt in load_prompts(table)],
        lambda table: match_prompts(table, [row["file"] for row in rows]),
    ]
    outcomes = {True: 0, False: 0}
    for number in range(200):
        suffix = list(originals)[number % 4]
        table = write(tmp_path / f"{number:03}.{suffix}", mutated(originals[suffix], random))
        for read in readers:
            try:
                assert read(table)
                outcomes[True] += 1
            except UserError:
                outcomes[False] += 1
    assert min(outcomes.values()) > 40
