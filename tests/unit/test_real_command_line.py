"""The command line as people type it: paths with special characters, other encodings, closed pipes, Ctrl-C."""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from perturb.arguments import exit_code
from perturb.cli.command import run_command
from perturb.cli.words import SPECIAL, hint, plain, quoted

ROOT = Path(__file__).parents[2]
VALUES = [
    "/data/epoch=1-step=2.ckpt",
    "/data/run#3",
    "/data/Büro/Größe",
    "/data/a~b",
    "/data/cats & dogs",
    "/data/wow!",
    "a cat, a dog",
    "it's a cat",
    'a sign that says "stop"',
    "a cat (red) [old] {tame}",
    "it costs ${price}",
    "C:\\clips\\2 = 1\\",
    "a; b < c > d ` ^",
    "日本の猫",
]


def command_line(monkeypatch: pytest.MonkeyPatch, *words: str) -> list[dict[str, Any]]:
    """What a command with the configuration of perturb.sample gets of these words."""
    seen: list[dict[str, Any]] = []
    monkeypatch.setattr(sys, "argv", ["perturb.sample", *words])
    run_command(seen.append, "generate")
    return seen


# values ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", VALUES)
def test_the_hint_names_the_character_and_the_form_it_shows_works(
    value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit, match="2"):
        command_line(monkeypatch, f"prompt={value}")
    said = capsys.readouterr().err
    special = SPECIAL.search(value)
    assert special is not None
    assert f"a value with {special[0]} needs two pairs of quotes: " in said
    (word,) = shlex.split(said.rpartition("two pairs of quotes: ")[2])  # what a shell makes of it
    assert command_line(monkeypatch, word)[0]["prompt"] == value


def test_the_word_with_the_mistake_is_the_one_that_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit, match="2"):
        command_line(monkeypatch, "output=plain", "adapter=runs/a=b", "prompt=fine")
    assert "a value with = needs two pairs of quotes: 'adapter=\"runs/a=b\"'\n" in capsys.readouterr().err


def test_a_word_without_a_value_gets_no_hint_about_quotes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit, match="2"):
        command_line(monkeypatch, "prompt")
    assert "quotes" not in capsys.readouterr().err
    assert hint("prompt=a plain cat: 3.5% of $8, no".replace(",", "")) == ""


@pytest.mark.parametrize("value", ["2024", "007", "1e3", "1_000", "-3", "3.50", ".5", "true", "False", "inf", "NaN"])
@pytest.mark.parametrize("key", ["prompt", "output", "prompts.file", "adapter"])
def test_a_text_that_looks_like_a_number_is_that_text(key: str, value: str, monkeypatch: pytest.MonkeyPatch):
    (config,) = command_line(monkeypatch, f"{key}={value}")
    for part in key.split("."):
        config = config[part]
    assert config == value


def test_lists_of_texts_too_and_numbers_stay_numbers(monkeypatch: pytest.MonkeyPatch):
    assert plain("run=[1,b/2,3]") == 'run=["1",b/2,"3"]'
    assert plain("perturbation.adapters=[1,2]") == 'perturbation.adapters=["1","2"]'
    (config,) = command_line(monkeypatch, "prompt=null", "adapter_scale=2", "sample.seeds=[1,2]")
    assert (config["prompt"], config["adapter_scale"], config["sample"]["seeds"]) == (None, 2, [1, 2])


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("output=~/clips", "output={home}/clips"),
        ("output=~", "output={home}"),
        ("run=[~/a,~/b]", "run=[{home}/a,{home}/b]"),
        ("images.folder=a~b", "images.folder=a~b"),
        ("~prompt", "~prompt"),
        ("prompt='~/a'", "prompt='~/a'"),
    ],
)
def test_the_home_folder_is_expanded(given: str, meant: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", "/home/ann")
    assert plain(given) == meant.format(home="/home/ann")


def test_the_home_folder_is_expanded_in_plain_arguments_too(tmp_path: Path):
    outcome = run("perturb.report", "nowhere", "--output=~/a.html", "--figures=~/none", HOME=str(tmp_path))
    assert outcome.returncode == 2
    assert not (ROOT / "~").exists()
    outcome = run("perturb.convert", "~/none.ckpt", "~/out", HOME=str(tmp_path))
    assert outcome.returncode == 2
    assert str(tmp_path) in outcome.stderr


def test_quotes_are_for_what_has_a_meaning_and_nothing_else():
    assert quoted('a\\"b') == '"a\\\\\\"b"'
    assert hint("a=b=c") == "a value with = needs two pairs of quotes: 'a=\"b=c\"'"


# readers --------------------------------------------------------------------------------------------------------------


def run(module: str, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        check=False,
    )


def test_an_output_that_lacks_characters_gets_their_codes():
    outcome = run("perturb.metrics", "docs", PYTHONIOENCODING="ascii")
    assert outcome.returncode == 0, outcome.stderr
    assert "\\u" in outcome.stdout or "\\xd7" in outcome.stdout
    assert outcome.stdout.isascii()
    assert outcome.stderr == ""


@pytest.mark.parametrize(
    ("module", "arguments"),
    [("perturb.run", ["--help"]), ("perturb.sample", ["--cfg", "job"]), ("perturb.report", ["--help"])],
)
def test_help_and_configurations_too(module: str, arguments: list[str]):
    outcome = run(module, *arguments, PYTHONIOENCODING="ascii")
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout
    assert "Traceback" not in outcome.stderr


@pytest.mark.parametrize(
    ("module", "arguments", "unbuffered"),
    [
        ("perturb.metrics", ["docs"], ""),
        ("perturb.metrics", ["list"], "1"),
        ("perturb.run", ["--help"], ""),
        ("perturb.run", ["--cfg", "job"], "1"),
        ("perturb.report", ["--help"], ""),
        ("perturb.convert", ["--version"], ""),
    ],
)
def test_a_reader_that_leaves_gets_no_word_and_the_code_of_sigpipe(module: str, arguments: list[str], unbuffered: str):
    reading, writing = os.pipe()
    os.close(reading)  # gone before the first line
    command = [sys.executable, "-m", module, *arguments]
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    with subprocess.Popen(
        command, stdout=writing, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment
    ) as process:
        os.close(writing)
        _, said = process.communicate()
    assert said == ""
    assert process.returncode == 141


def test_a_pipe_of_ones_own_that_breaks_is_an_error_as_it_was():
    def fail() -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        exit_code(fail)


def test_ctrl_c_is_one_line_and_130(capsys: pytest.CaptureFixture[str]):
    def interrupt() -> None:
        raise KeyboardInterrupt

    assert exit_code(interrupt) == 130
    assert capsys.readouterr().err == "stopped; the same command, given again, goes on from what is finished\n"


def test_a_command_may_have_a_code_of_its_own():
    assert (exit_code(lambda: 1), exit_code(lambda: None), exit_code(lambda: "text")) == (1, 0, 0)


def test_ctrl_c_while_converting_leaves_nothing(tmp_path: Path):
    source = ROOT / "perturb" / "weights" / "nano" / "full"
    slow = (
        "import time, sys\nimport perturb.convert as c, perturb.models.videocrafter.folder as f\n"
        "f.write_safetensors = lambda *_: (print('writing', flush=True), time.sleep(60))\n"
        f"sys.exit(c.main([{str(source)!r}, {str(tmp_path / 'out')!r}, '--to', 'folder']))"
    )
    command = [sys.executable, "-c", slow]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in said
    assert said.startswith("stopped")
    assert list(tmp_path.iterdir()) == []
