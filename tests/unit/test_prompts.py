"""Prompt files: every format, ids, and errors that say what to give."""

from pathlib import Path

import pytest

from perturb.data.prompts import Prompt, load_prompts
from perturb.errors import UserError


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_lines_are_numbered_in_order_and_blank_ones_passed_over(tmp_path: Path) -> None:
    file = write(tmp_path, "p.txt", "\ufeffa red circle\r\n\n  a blue star  \n")
    assert load_prompts(file) == [Prompt("p000", "a red circle"), Prompt("p001", "a blue star")]
    assert load_prompts(file, limit=1) == [Prompt("p000", "a red circle")]
    assert len(load_prompts(file, limit=9)) == 2


def test_tables_give_prompt_or_caption_and_optional_ids(tmp_path: Path) -> None:
    table = write(tmp_path, "p.csv", 'id,prompt\ncat,"a cat, sitting"\n,a dog\n')
    assert load_prompts(table) == [Prompt("cat", "a cat, sitting"), Prompt("p001", "a dog")]
    lines = write(tmp_path, "p.jsonl", '{"caption": "a cat", "id": 7}\n\n{"prompt": "a dog"}\n')
    assert load_prompts(lines) == [Prompt("7", "a cat"), Prompt("p001", "a dog")]


@pytest.mark.parametrize(
    ("name", "text", "named"),
    [
        ("p.txt", " \n\n", "holds no prompts"),
        ("p.csv", "id,prompt\n", "holds no prompts"),
        ("p.csv", "id,words\n1,a cat\n", "has no column prompt or caption or text; it has id, words"),
        ("p.csv", "id,prompt\na,x\na,y\n", "'a' twice"),
        ("p.csv", "id,prompt\na/b,x\n", "name files"),
        ("p.csv", "id,prompt\na,a cat, sitting\n", "line 2 has more cells"),
        ("p.jsonl", "{'prompt': 1}\n", "line 1 is not JSON"),
        ("p.jsonl", '["a"]\n', "not a JSON object"),
        ("p.yaml", "a: b", "allowed are .txt, .csv, .jsonl and .parquet"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, name: str, text: str, named: str) -> None:
    with pytest.raises(UserError, match=named):
        load_prompts(write(tmp_path, name, text))


def test_missing_files_and_limits(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"prompts\.file="):
        load_prompts(tmp_path / "none.txt")
    with pytest.raises(UserError, match=r"prompts\.limit"):
        load_prompts(tmp_path / "none.txt", limit=0)
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(UserError, match="UTF-8"):
        load_prompts(tmp_path / "binary.txt")
