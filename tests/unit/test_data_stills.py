"""Stills to train on: tables in three formats, Hugging Face datasets on disk, folders; and damaged images in them."""

import builtins
import json
from pathlib import Path
from typing import Any, cast

import datasets
import numpy as np
import pyarrow
import pytest
import torch
from data_files import load
from PIL import Image
from pyarrow import parquet

from perturb.data.images import ImageFolder
from perturb.data.source import BrokenSample
from perturb.data.stills import ImageTable, SavedDataset, StillSource, still_dataset, still_folder, still_table
from perturb.data.videos import VideoTable
from perturb.errors import UserError
from perturb.world import GradeStills

RED, WHITE, BLUE = (255, 0, 0), (255, 255, 255), (0, 0, 255)
ROWS = [("a.png", 'a "red", one'), ("sub/b.png", "a dog"), ("a.png", "again")]


def paint(path: Path, *columns: tuple[int, ...], height: int = 2, **options) -> Path:
    """An image with one colour per column."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.tile(np.array(columns, dtype=np.uint8)[None], (height, 1, 1))).save(path, **options)
    return path


def write_table(path: Path, rows: list[tuple[str, str]]) -> Path:
    """The same rows in the format of the suffix."""
    if path.suffix == ".csv":
        quoted = "".join('{},"{}"\n'.format(file, text.replace('"', '""')) for file, text in rows)
        path.write_text(f"extra,path,caption\n{''.join(f'7,{line}' for line in quoted.splitlines(keepends=True))}")
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps({"file_name": file, "text": text, "n": 1}) + "\n" for file, text in rows))
    else:
        files, texts = zip(*rows, strict=True)
        parquet.write_table(pyarrow.table({"file": files, "caption": texts, "n": [1.5] * len(files)}), path)
    return path


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.parquet"])
def test_tables_list_files_and_captions_in_their_order(tmp_path: Path, name: str):
    paint(tmp_path / "pictures/a.png", RED, RED)
    paint(tmp_path / "pictures/sub/b.png", BLUE, BLUE)
    table = write_table(tmp_path / name, ROWS)
    images = ImageTable(table, root=tmp_path / "pictures")
    assert [images.caption(i) for i in range(3)] == [text for _, text in ROWS]
    assert [images.load(i, 2, 2)[:, 0, 0].tolist() for i in range(3)] == [[1, -1, -1], [-1, -1, 1], [1, -1, -1]]
    source = still_table(table, root=tmp_path / "pictures")
    sample = load(source, 1, frames=16, size=2)
    assert sample.frames.shape == (3, 1, 2, 2)
    assert (sample.caption, sample.fps) == ("a dog", 0)
    assert torch.equal(sample.frames[:, 0], images.load(1, 2, 2))
    described = source.describe()
    assert (described["source"], described["count"], described["checked"]) == (str(table), 3, False)
    assert described["sha256"] != ImageTable(write_table(table, ROWS[:2]), tmp_path / "pictures").describe()["sha256"]


def test_damaged_images_of_a_table_are_skipped_with_their_captions_or_broken_when_wanted(tmp_path: Path):
    for name in ("a.png", "b.png", "c.png"):
        paint(tmp_path / name, RED, BLUE)
    (tmp_path / "b.png").write_bytes((tmp_path / "b.png").read_bytes()[:40])
    rows = [("a.png", "one"), ("b.png", "two"), ("absent.png", "three"), ("c.png", "four")]
    table = write_table(tmp_path / "t.csv", rows)
    with pytest.raises(UserError, match=r"2 of 4 images .* cannot be read, e\.g\. b\.png, absent\.png"):
        ImageTable(table)
    images = ImageTable(table, max_corrupt_fraction=0.5)
    assert [images.caption(i) for i in range(len(images))] == ["one", "four"]
    lazy = still_table(table)
    assert len(lazy) == 4
    for index, name in ((1, "b.png"), (2, "absent.png")):
        with pytest.raises(BrokenSample, match=rf"{name}: cannot be read as an image"):
            load(lazy, index)
    assert load(lazy, 3).caption == "four"


def test_grey_deep_transparent_and_turned_images_come_as_upright_rgb(tmp_path: Path):
    Image.fromarray(np.array([[0, 51]], dtype=np.uint8)).save(tmp_path / "0.png")
    Image.fromarray(np.array([[0, 13107]], dtype=np.uint16)).save(tmp_path / "1.png")
    clear = np.array([[[255, 0, 0, 0], [255, 0, 0, 51]]], dtype=np.uint8)
    Image.fromarray(clear, "RGBA").save(tmp_path / "2.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise
    paint(tmp_path / "3.png", RED, WHITE, height=1, exif=exif)
    source = still_folder(tmp_path, captions="none")
    grey = torch.tensor([-1.0, -0.6]).expand(3, 1, 1, 2)
    torch.testing.assert_close(load(source, 0, size=(1, 2)).frames, grey)
    torch.testing.assert_close(load(source, 1, size=(1, 2)).frames, grey)
    over_white = torch.tensor([[1.0, 1.0], [1.0, 0.6], [1.0, 0.6]])[:, None, None]
    torch.testing.assert_close(load(source, 2, size=(1, 2)).frames, over_white)
    turned = load(source, 3, size=(2, 1)).frames
    assert turned[1, 0, :, 0].tolist() == [-1, 1]  # green: red on top, white below


def test_random_crops_reach_both_sides_and_centre_crops_do_not_move(tmp_path: Path):
    paint(tmp_path / "a.png", *[(value, 0, 0) for value in range(0, 110, 10)], height=5)  # 11 columns
    leftmost = {
        crop: {
            round(float(load(still_folder(tmp_path, "none", crop), size=5, seed=seed).frames[0, 0, 0, 0] + 1) * 12.75)
            for seed in range(50)
        }
        for crop in ("centre", "random")
    }
    assert leftmost == {"centre": {3}, "random": set(range(7))}


def test_the_embedded_world_s_stills_serve_as_a_source_but_not_for_random_crops():
    images: Any = GradeStills(3)
    sample = load(StillSource(images), 2, size=64)
    assert torch.equal(sample.frames[:, 0], images.load(2, 64, 64))
    assert sample.caption == images.caption(2)
    with pytest.raises(UserError, match="crop=random needs whole pictures, which GradeStills has not"):
        StillSource(images, crop="random")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A dataset of two splits with columns picture (encoded) and text; one picture of "train" is damaged."""
    good, bad = paint(tmp_path / "a.png", RED, RED), tmp_path / "b.png"
    bad.write_bytes(good.read_bytes()[:40])
    kinds = datasets.Features({"picture": datasets.Image(), "text": datasets.Value("string")})
    train = {"picture": [str(good), str(bad), None], "text": ["one", "two", None]}
    test = {"picture": [str(good)], "text": ["test"]}
    whole = {
        name: datasets.Dataset.from_dict(rows, features=kinds) for name, rows in (("train", train), ("test", test))
    }
    datasets.DatasetDict(cast(Any, whole)).save_to_disk(str(tmp_path / "saved"))
    good.unlink()
    return tmp_path / "saved"


def test_datasets_saved_on_disk(saved: Path):
    images = SavedDataset(saved, split="train")
    assert images.load(0, 2, 2)[:, 1, 1].tolist() == [1, -1, -1]
    assert (images.caption(0), len(images), images.describe()["columns"]) == ("one", 3, ["picture", "text"])
    source = still_dataset(saved, split="train", crop="random")
    assert torch.equal(load(source, size=2).frames[:, 0], images.load(0, 2, 2))
    with pytest.raises(BrokenSample, match=r"saved\[1\]: cannot be read as an image"):
        load(source, 1)
    with pytest.raises(BrokenSample, match=r"saved\[2\]: its column 'picture' holds no image"):
        load(source, 2)
    with pytest.raises(BrokenSample, match="its caption is no text but None"):
        images.caption(2)
    assert SavedDataset(saved / "test").caption(0) == "test"
    with pytest.raises(UserError, match=r"split is None; allowed: train, test"):
        SavedDataset(saved)
    with pytest.raises(UserError, match="split is 'train'; it has no splits"):
        SavedDataset(saved / "test", split="train")
    with pytest.raises(UserError, match=r"has no column title; it has picture, text: name one with caption="):
        SavedDataset(saved, split="train", caption="title")
    with pytest.raises(UserError, match="no dataset saved with save_to_disk"):
        SavedDataset(saved.parent)


def test_tables_that_cannot_be(tmp_path: Path):
    paint(tmp_path / "a.png", RED, RED)

    def table(name: str, text: str) -> Path:
        (tmp_path / name).write_text(text)
        return tmp_path / name

    with pytest.raises(UserError, match=r"no table .*absent\.csv"):
        ImageTable(tmp_path / "absent.csv")
    with pytest.raises(UserError, match=r"ends in '\.txt': allowed are \.csv, \.jsonl and \.parquet"):
        ImageTable(table("t.txt", "a.png"))
    with pytest.raises(UserError, match=r"has no column file or file_name or .*; it has name, caption"):
        ImageTable(table("t.csv", "name,caption\na.png,x\n"))
    with pytest.raises(UserError, match="has no column caption or text or prompt or top_caption; it has file"):
        ImageTable(table("t.csv", "file\na.png\n"))
    with pytest.raises(UserError, match=r"2 of 3 rows of .* have no caption, e\.g\. line 2, line 4"):
        ImageTable(table("t.csv", "file,caption\na.png,\na.png,x\na.png, \n"))
    with pytest.raises(UserError, match="line 2"):
        ImageTable(table("t.jsonl", '{"file": "a.png", "caption": "x"}\n{"file": "a.png"}\n'))
    with pytest.raises(UserError, match=r"holds no rows below its headings \(file, caption\)"):
        ImageTable(table("t.csv", "file,caption\n"))
    with pytest.raises(UserError, match="line 2 has more cells"):
        ImageTable(table("t.csv", "file,caption\na.png,a cat, red\n"))
    with pytest.raises(UserError, match="cannot be read as parquet"):
        ImageTable(table("t.parquet", "no parquet"))
    (tmp_path / "t.csv").write_bytes("file,caption\na.png,Käse\n".encode("latin-1"))
    with pytest.raises(UserError, match="not UTF-8"):
        ImageTable(tmp_path / "t.csv")


def test_webvid_s_own_tables_name_their_videos_by_folder_and_number(tmp_path: Path):
    (tmp_path / "results.csv").write_text(
        "videoid,contentUrl,duration,page_dir,name\n"
        "1066674784,https://example.org/a.mp4,PT00H00M18S,006001_006050,A cat walks\n"
        "2,https://example.org/b.mp4,PT00H00M05S,,Rain\n"
    )
    table = VideoTable(tmp_path / "results.csv", root=tmp_path / "videos")
    assert list(table.names) == ["006001_006050/1066674784.mp4", "2.mp4"]
    assert (list(table.captions), table.fps) == (["A cat walks", "Rain"], None)
    with pytest.raises(BrokenSample, match=r"videos/006001_006050/1066674784\.mp4: no such file"):
        load(table)


def test_without_the_optional_packages_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    real = builtins.__import__

    def missing(name: str, *rest: Any) -> Any:
        if name.split(".", maxsplit=1)[0] in ("pyarrow", "datasets"):
            raise ImportError(name)
        return real(name, *rest)

    (tmp_path / "t.parquet").write_bytes(b"")
    monkeypatch.setattr(builtins, "__import__", missing)
    for attempt in (lambda: ImageTable(tmp_path / "t.parquet"), lambda: SavedDataset(tmp_path)):
        with pytest.raises(UserError, match=r"pip install 'perturb\[data\]'"):
            attempt()


def test_a_folder_that_is_not_read_at_the_start_knows_its_names_only(tmp_path: Path):
    paint(tmp_path / "a.png", RED, RED)
    (tmp_path / "b.png").write_bytes(b"damaged")
    lazy = ImageFolder(tmp_path, captions="none", max_corrupt_fraction=None)
    assert (len(lazy), lazy.skipped, lazy.describe()["checked"]) == (2, [], False)
    digest = lazy.describe()["sha256"]
    paint(tmp_path / "a.png", BLUE, BLUE)
    assert ImageFolder(tmp_path, captions="none", max_corrupt_fraction=None).describe()["sha256"] == digest
    (tmp_path / "b.png").rename(tmp_path / "c.png")
    assert ImageFolder(tmp_path, captions="none", max_corrupt_fraction=None).describe()["sha256"] != digest
