"""Which files of a folder are clips, in which order, and which prompt belongs to which."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from data_files import as_nobody

from perturb.data.collection import Prompted, find_clips, match_prompts
from perturb.errors import UserError

NAMES = ["a.mp4", "b/c.gif", "b/d.npy"]


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def test_clips_are_files_and_folders_of_images_by_sorted_name(tmp_path: Path) -> None:
    touch(tmp_path, "b/2.mp4", "b/10.MP4", "a.gif", "z/f/0.png", "z/f/1.png", "notes.txt", ".hid.mp4", ".cache/x.npy")
    touch(tmp_path, "b/thumbnail.jpg")  # beside clips it is no clip
    found = find_clips(tmp_path, "videos")
    assert list(found.clips) == ["a.gif", "b/10.MP4", "b/2.mp4", "z/f"]
    assert found.clips["z/f"] == tmp_path / "z/f"
    assert found.left_out == []


def test_lossless_frames_go_before_the_video_of_the_same_name(tmp_path: Path) -> None:
    touch(tmp_path, "p0_s0.npy", "p0_s0.mp4", "p1_s0.mp4", "sheet.png")
    found = find_clips(tmp_path, "videos")
    assert list(found.clips) == ["p0_s0.npy", "p1_s0.mp4"]
    assert found.left_out == ["p0_s0.mp4"]


def test_odd_names_are_kept_and_can_be_written(tmp_path: Path) -> None:
    names = ["наводнение.mp4", "a, 'b' [bold]=x.mp4", "line\nbreak.mp4"]
    touch(tmp_path, *names)
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.mp4")).touch()
    clips = find_clips(tmp_path, "videos").clips
    assert set(clips) == {*names, "\\udcff.mp4"}
    assert all(path.is_file() and name.encode() for name, path in clips.items())


def test_a_folder_of_frames_alone_is_one_clip(tmp_path: Path) -> None:
    assert list(find_clips(touch(tmp_path / "take", "0.png", "1.png"), "videos").clips) == ["take"]


def test_a_folder_that_may_not_be_read_is_named_not_left_out() -> None:
    with TemporaryDirectory() as folder:
        place = touch(Path(folder), "a.mp4", "shut/b.mp4", ".hidden/c.mp4")
        place.chmod(0o755)
        (place / ".hidden").chmod(0)
        with as_nobody():
            assert list(find_clips(place, "videos").clips) == ["a.mp4", "shut/b.mp4"]
        (place / "shut").chmod(0)
        with as_nobody(), pytest.raises(UserError, match="shut cannot be read: Permission denied"):
            find_clips(place, "videos")


def test_no_folder_and_no_clips_are_said_with_the_setting(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no folder .*videos=/path"):
        find_clips(tmp_path / "nowhere", "videos")
    for names in ((), ("a.txt",), (".hidden/a.mp4",)):
        with pytest.raises(UserError, match=r"holds no clips.*videos="):
            find_clips(touch(tmp_path, *names), "videos")


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("p.csv", 'file,prompt\nb/c.gif,"a cat, red"\na.mp4,a dog\nb/d.npy,a dog\n'),
        (
            "p.jsonl",
            '{"video": "a.mp4", "text": "a dog"}\n{"video": "b/c.gif", "text": "a cat, red"}\n'
            '{"video": "b/d.npy", "text": "a dog"}\n',
        ),
        ("p.txt", "a dog\na cat, red\n\na dog\n"),
    ],
)
def test_prompts_are_matched_and_equal_texts_are_one_prompt(file: str, text: str, tmp_path: Path) -> None:
    (tmp_path / file).write_text(text)
    assert match_prompts(tmp_path / file, NAMES) == [
        Prompted("p000", 0, "a dog"),
        Prompted("p001", 0, "a cat, red"),
        Prompted("p000", 1, "a dog"),
    ]


def test_ids_of_a_table_are_kept_and_without_a_file_each_clip_is_its_own_prompt(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("file,prompt,id\na.mp4,x,cat\nb/c.gif,x,dog\nb/d.npy,y,cat\n")
    assert [(one.id, one.take) for one in match_prompts(tmp_path / "p.csv", NAMES)] == [
        ("cat", 0),
        ("dog", 0),
        ("cat", 1),
    ]
    assert match_prompts(None, NAMES) == [Prompted(name, 0, "") for name in NAMES]


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("p.csv", "file,prompt\na.mp4,x\n", r"2 names have no row in .*b/c\.gif, b/d\.npy"),
        ("p.csv", "file,prompt\na.mp4,x\nb/c.gif,x\nb/d.npy,x\ne.mp4,x\n", r"1 names in .* are no clips.*e\.mp4"),
        ("p.csv", "file,prompt\na.mp4,x\na.mp4,y\nb/c.gif,x\nb/d.npy,x\n", r"gives twice.*a\.mp4"),
        ("p.csv", "file,prompt\na.mp4,\n", "have no prompt"),
        ("p.csv", "clip,prompt\na.mp4,x\n", "no column file"),
        ("p.txt", "one\ntwo\n", "holds 2 prompts for 3 clips"),
        ("p.xml", "<x/>", r"allowed are \.csv"),
        ("q.csv", "", "no prompt file"),
    ],
)
def test_prompts_that_do_not_fit_are_errors(file: str, text: str, message: str, tmp_path: Path) -> None:
    if file.startswith("p."):
        (tmp_path / file).write_text(text)
    with pytest.raises(UserError, match=message):
        match_prompts(tmp_path / file, NAMES)
