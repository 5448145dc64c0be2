"""Every command in a block of a document is one that the programs take: composed and read, or parsed; none is run."""

import argparse
import re
import shutil
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import Sequence
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from perturb import structured
from perturb.cli.words import plain
from perturb.store.paths import conf_dir
from tests.contract.test_documents import DOCUMENTS, ROOT, read

SHELL = {"python", "torchrun", "srun", "perturb", "make", "pip", "git", "pre-commit"}
"""Programs that documents call. Another one makes the test fail: what it does would not be known to be right."""
BLOCK = re.compile(r"(?<=\n\n)((?: {4,}.*\n|\n(?= {4}))+)|^```(?:sh|bash|console)\n([\s\S]*?)^```", re.MULTILINE)
CALL = re.compile(rf"^ *(?:\w+=\S+ )*(?:\S*/bin/)?(?:{'|'.join(map(re.escape, SHELL))}) ", re.MULTILINE)
PLAIN = {r"<[\w ]+>": "ID", "…": "x", r"\bSEED\b": "0", r"(?<!\S)\S*/bin/(?=\w)": ""}
"""Placeholders, and programs of an environment, as words that a shell and the commands can read."""
STUB = """#!/bin/sh
printf '%s\\0' "$(basename "$0")" "$@" >>"$CALLED"; printf '\\n\\0' >>"$CALLED"; echo 0
"""
READS = {
    "config": "perturb.cli.config.RunConfig",
    "generate": "perturb.cli.config.GenerateConfig",
    "partition": "perturb.cli.config.NamesConfig",
    "score": "perturb.score.ScoreConfig",
    "train": "perturb.training.config.TrainConfig",
}
"""What a configuration is read as; perturb.compare reads it as a study, after changes of its own."""


def blocks(text: str) -> list[str]:
    """The blocks of shell commands: where a line begins with a program, behind variables that are set for it."""
    found = [textwrap.dedent(indented or fenced) for indented, fenced in BLOCK.findall(text)]
    return [block for block in found if CALL.search(block)]


def called(document: Path, folder: Path) -> list[list[str]]:
    """What bash would call: programs with their arguments, loops and variables expanded. None of them is run."""
    programs, work = folder / "bin", folder / "work"
    programs.mkdir()
    for name in SHELL:
        (programs / name).write_text(STUB)
        (programs / name).chmod(0o755)
    for name in ("basename", "dirname", "tr", "cat"):
        (programs / name).symlink_to(str(shutil.which(name)))
    for name in ("docs", "perturb"):
        (work / name).mkdir(parents=True)
    script = "\n".join(f"({block})" for block in blocks(read(document)))
    for pattern, value in PLAIN.items():
        script = re.sub(pattern, value, script)
    called = folder / "called"
    called.touch()
    environment = {"PATH": str(programs), "CALLED": str(called)}
    bash = [str(shutil.which("bash")), "-euo", "pipefail", "-c", script]
    outcome = subprocess.run(bash, cwd=work, env=environment, capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stderr
    words = called.read_text(encoding="utf-8").split("\0")[:-1]
    ends = [place for place, word in enumerate(words) if word == "\n"]
    return [words[begin:end] for begin, end in zip([0, *(end + 1 for end in ends)], ends, strict=False)]


class Accepted(BaseException):
    """Raised in the place of what a command would do."""


def composed(task: object, config_name: str) -> None:
    """In the place of hydra: the configuration of the command line, every value of a sweep in one of the jobs."""
    del task
    words = [plain(word) for word in sys.argv[1:] if word not in ("--multirun", "--help")]
    if "--config-dir" in words:
        place = words.index("--config-dir")
        words[place : place + 2] = [f"hydra.searchpath=[{Path(words[place + 1]).absolute()}]"]
    sweeps = [
        list(found.sweep_string_iterator()) if found.is_sweep_override() and "--multirun" in sys.argv else [word]
        for word, found in zip(words, OverridesParser.create().parse_overrides(words), strict=True)
    ]
    keys = [word.partition("=")[0] for word in words]
    for job in range(max(map(len, sweeps), default=1)):
        chosen = [values[job % len(values)] for values in sweeps]
        overrides = [
            f"{key}={value}" if len(values) > 1 else value
            for key, value, values in zip(keys, chosen, sweeps, strict=True)
        ]
        values: Any = OmegaConf.to_container(compose(config_name, overrides=overrides), resolve=True)
        if config_name in READS:
            module, _, name = READS[config_name].rpartition(".")
            wanted = getattr(import_module(module), name)
            names = {field.name for field in fields(wanted)}
            structured.read(wanted, {key: value for key, value in values.items() if key in names})
    raise Accepted


def accepted(module: str, arguments: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A command of the package: hydra's configuration resolves and is read, or argparse takes the arguments."""
    parse = argparse.ArgumentParser.parse_args

    def parsed(parser, args=None, namespace=None):
        parse(parser, args, namespace)
        raise Accepted

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parsed)
    monkeypatch.setattr("perturb.cli.command._run", composed)
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    found = import_module(module)
    found = import_module(f"{module}.__main__") if hasattr(found, "__path__") else found
    with pytest.raises(Accepted), initialize_config_dir(str(conf_dir()), version_base="1.3"):
        found.main()


def check(command: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """One call: of the package, of make, of pip; others are taken at their word."""
    program, *arguments = command
    module = arguments.index("-m") + 1 if "-m" in arguments else 0
    if module and arguments[module].startswith("perturb."):
        accepted(arguments[module], arguments[module + 1 :], monkeypatch)
    elif program == "perturb":
        accepted(f"perturb.{arguments[0]}", arguments[1:], monkeypatch)
    elif program == "make":
        targets = re.findall(r"^([a-z-]+)(?: [a-z-]+)*:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert {word for word in arguments if "=" not in word} <= set(targets)


@pytest.mark.parametrize("document", [d for d in DOCUMENTS if blocks(read(d))], ids=str)
def test_every_command_in_a_block_of_a_document_is_accepted(
    document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = called(document, tmp_path)
    lines = re.findall(r"^ {4,}.*-m perturb\.", read(document), re.MULTILINE)
    assert sum("-m" in command for command in commands) >= len(lines)  # no block was overlooked
    own = tmp_path / "work" / "FOLDER" / "metrics" / "NAME.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("_target_: perturb.metrics.embedded_metrics\n")
    monkeypatch.chdir(tmp_path / "work")
    unlike = {re.sub(r"\d+", "0", " ".join(command)): command for command in commands}  # a loop over seeds needs one
    for command in unlike.values():
        with monkeypatch.context() as patched:
            check(command, patched)


def test_a_wrong_command_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in (
        "python -m perturb.run experiment=spatial_full fit.batchsize=3",
        "python -m perturb.run experiment=spatial_full fit.batch_size=0",
        "python -m perturb.run experiment=spatial_full,spatial_partial",
        "python -m perturb.report runs --galery",
        "python -m perturb.convert SRC",
        "make studdy",
    ):
        with monkeypatch.context() as patched, pytest.raises(BaseException) as caught:  # noqa: PT011
            check(wrong.split(), patched)
        assert not isinstance(caught.value, Accepted), wrong


def test_extras_in_documents_are_those_of_the_package() -> None:
    known = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    named = {
        extra
        for text in map(read, DOCUMENTS)
        for extras in re.findall(r"(?:perturb|-e '\.)\[([\w,]+)\]", text)
        for extra in extras.split(",")
    }
    assert {"learned", "analysis"} <= named <= set(known)
