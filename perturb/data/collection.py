"""A folder of clips to score: which files and folders are clips, and which prompt each was made from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from perturb.data import footage, pictures
from perturb.data.animations import is_animation
from perturb.data.captions import FILE_COLUMNS
from perturb.data.prompts import TEXT_COLUMNS, read_lines
from perturb.data.tables import Table
from perturb.errors import UserError
from perturb.store.paths import resolve

COLUMNS = {"file": FILE_COLUMNS, "prompt": TEXT_COLUMNS, "id": ("prompt_id", "id")}


@dataclass(frozen=True)
class Collection:
    """Clips by name, in order; ``left_out``: files of which a lossless .npy lies beside, which is read instead.

    A name is the path relative to the folder. Bytes of it that are not UTF-8 are written as escapes.
    """

    clips: Mapping[str, Path]
    left_out: Sequence[str] = ()


@dataclass(frozen=True)
class Prompted:
    """What a clip was made from: ``id`` is shared by the clips of one prompt, ``take`` numbers them."""

    id: str
    take: int
    text: str


def find_clips(folder: str | Path, setting: str) -> Collection:
    """The videos, animations and npy files of a folder and its subfolders, and folders of images alone, by sorted name.

    Images beside clips are no clip; WebP and PNG files are one where they hold several pictures. Raises UserError,
    naming ``setting``, for a missing folder and one without clips.
    """
    root = resolve(folder)
    files = pictures.list_files(root, (*footage.SUFFIXES, *pictures.SUFFIXES), what="clips", setting=setting)
    clips = [file for file in files if file.suffix.lower() in footage.SUFFIXES or is_animation(file)]
    beside = {file.parent for file in clips}
    folders = {file.parent for file in files} - beside
    lossless = {file.with_suffix("") for file in clips if file.suffix.lower() == ".npy"}
    doubled = {file for file in clips if file.suffix.lower() != ".npy" and file.with_suffix("") in lossless}
    names = {_name(path, root): path for path in (*clips, *folders) if path not in doubled}
    if not names:
        raise UserError(f"{root} holds no clips: give a folder of videos, gifs, npy files or frames with {setting}=…")
    return Collection(dict(sorted(names.items())), sorted(_name(path, root) for path in doubled))


def match_prompts(
    file: str | Path | None, names: Sequence[str], columns: Mapping[str, str | None] | None = None
) -> list[Prompted]:
    """The prompt of each clip, from csv or jsonl (file, prompt, and if wanted id), or txt in the order of the clips.

    ``columns``: see `Table`. Without a file every clip stands for itself: its name is its prompt's id. Raises UserError
    for clips without a prompt, prompts without a clip, and a table that cannot be read.
    """
    if file is None:
        return [Prompted(name, 0, "") for name in names]
    path = resolve(file)
    if not path.is_file():
        raise UserError(f"no prompt file {path}: give a .csv or .jsonl with file and prompt, or a .txt with prompts=…")
    texts, ids = _lines(path, names) if path.suffix.lower() == ".txt" else _table(path, names, columns)
    numbered = {text: f"p{number:03d}" for number, text in enumerate(dict.fromkeys(texts))}
    prompted: list[Prompted] = []
    takes: dict[str, int] = {}
    for text, given in zip(texts, ids, strict=True):
        key = given or numbered[text]
        takes[key] = takes.get(key, -1) + 1
        prompted.append(Prompted(key, takes[key], text))
    return prompted


def _lines(path: Path, names: Sequence[str]) -> tuple[list[str], list[str]]:
    texts = read_lines(path)
    if len(texts) != len(names):
        raise UserError(
            f"{path} holds {len(texts)} prompts for {len(names)} clips: give one line for each, in the order of their "
            f"sorted names ({', '.join(names[:3])} …), or a .csv with file and prompt"
        )
    return texts, [""] * len(texts)


def _table(path: Path, names: Sequence[str], columns: Mapping[str, str | None] | None) -> tuple[list[str], list[str]]:
    rows = list(Table(path, COLUMNS, columns).require("file", "prompt").texts())
    files = [row["file"] for row in rows]
    places = {name: number for number, name in enumerate(files)}
    for problem, found in (
        (f"name a file that {path} gives twice", [name for i, name in enumerate(files) if places[name] != i]),
        (f"have no row in {path}", [name for name in names if name not in places]),
        (f"in {path} are no clips of the folder", sorted(places.keys() - set(names))),
    ):
        if found:
            raise UserError(f"{len(found)} names {problem}, e.g. {', '.join(found[:3])}: names are relative paths")
    chosen = [rows[places[name]] for name in names]
    return [row["prompt"] for row in chosen], [row["id"] for row in chosen]


def _name(path: Path, root: Path) -> str:
    """The relative path as text that can be written to a file; a root that is itself one clip has its own name."""
    name = path.name if path == root else path.relative_to(root).as_posix()
    return name.encode("utf-8", "backslashreplace").decode("utf-8")
