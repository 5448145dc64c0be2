"""One word of the command line, ``key=value``: what of it hydra would take for something else, and how to write it."""

import re
import shlex
from pathlib import Path

TEXTS = {
    *("file", "folder", "table", "root", "shards", "captions", "checkpoint", "adapter", "adapters", "reference"),
    *("spatial", "temporal", "image", "prompt", "negative_prompt", "script", "videos", "run", "cache", "output"),
    *("runs_dir", "work", "name", "init", "base", "share", "weights", "split", "caption"),
    *("motion", "domain_adapter", "motion_lora", "modelscope", "stable_diffusion"),
}
"""Last parts of the keys whose values are text, also where a text looks like a number."""
NUMBER = re.compile(
    r"(?<=[=,\[])\s*([+-]?(?:\d[\d_]*\.?[\d_]*(?:e[+-]?\d+)?|\.\d[\d_]*|inf|nan)|true|false)\s*(?=,|\]|$)", re.I
)
HOME = re.compile(r"(?<=[=,\[])~[\w.-]*(?=/|,|\]|$)")
SPECIAL = re.compile(r"\$\{|[^A-Za-z0-9_/\\+.$%*@?|:\t -]")
"""Where an interpolation begins, and what is no character of hydra's unquoted values (grammar/OverrideLexer.g4)."""


def plain(word: str) -> str:
    """``word`` with ~ as the home folder, which shells expand in front of a word only, and with texts as texts.

    >>> plain("images.folder=2024"), plain("run=[1,b]"), plain("fit.seed=7"), plain("adapters=a,b")
    ('images.folder="2024"', 'run=["1",b]', 'fit.seed=7', 'adapters=[a,b]')
    """
    key, equals, value = word.partition("=")
    if key == "adapters" and "[" not in value:  # a list, also without brackets
        word, value = f"adapters=[{value}]", f"[{value}]"
    if not equals or '"' in value or "'" in value:
        return word
    word = HOME.sub(lambda match: str(Path(match[0]).expanduser()), word)
    key = key.lstrip("+").rpartition(".")[2]
    return NUMBER.sub(r'"\1"', word) if key in TEXTS else word


def hint(word: str) -> str:
    """Which character of the value needs quotes, and the word in them, for a shell; nothing where none does.

    >>> print(hint("prompt=a cat, a dog"))
    a value with , needs two pairs of quotes: 'prompt="a cat, a dog"'
    """
    key, _, value = word.partition("=")
    special = SPECIAL.search(value)
    if not special:
        return ""
    return f"a value with {special[0]} needs two pairs of quotes: {shlex.quote(f'{key}={quoted(value)}')}"


def quoted(text: str) -> str:
    """``text`` as hydra's quoted value, of which nothing is special.

    >>> print(quoted('say "a" for ${b}'))
    "say \\"a\\" for \\${b}"
    """
    text = re.sub(r'(\\*)("|\$\{)', r"\1\1\\\2", text)
    return '"' + re.sub(r"(\\+)$", r"\1\1", text) + '"'
