"""Reading a torch file without running anybody's code."""

import re
import warnings
from pathlib import Path
from typing import Any

import torch

from perturb.errors import UserError

LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # torch.save before version 1.6
FOREIGN = {
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"\x1f\x8b": "a gzip archive (unpack it first)",
    b"version https://git-lfs": "a git-lfs pointer (run `git lfs pull` to get the weights themselves)",
    b"<": "an HTML or XML page (the download answered with a web page, not with the file)",
    b"GGUF": "a GGUF file",
}
ALLOWED = "allowed: a torch .ckpt/.pt, .safetensors, sharded safetensors with their index, or a folder with spec.json"


def load_torch(path: Path) -> Any:
    """What a file of `torch.save` holds, on the CPU and mapped where its form allows it.

    Raises UserError for a file that is empty, cut short, of another type, or that wants to run code.
    """
    with path.open("rb") as file:
        head = file.read(32)
    if not head:
        raise UserError(f"{path} is empty (0 bytes); download or copy it again")
    mapped = head.startswith(b"PK")
    if not mapped and not head.startswith(LEGACY_MAGIC):
        what = next((name for magic, name in FOREIGN.items() if head.lstrip().startswith(magic)), "of no known type")
        raise UserError(f"{path} is not a checkpoint: it is {what}; {ALLOWED}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # A file from before torch 1.6 is no archive and cannot be mapped: it is read into memory, once.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:
        raise UserError(_why_unreadable(path, str(error))) from error


def _why_unreadable(path: Path, message: str) -> str:
    wanted = re.search(r"GLOBAL\s+(\S+)", message)
    if wanted:
        return (
            f"{path} was refused: besides weights it wants to import {wanted[1]!r}, which could run code. If you trust "
            "where it comes from, save its weights alone on a machine of your own: "
            "torch.save({'state_dict': torch.load(path, weights_only=False)['state_dict']}, new_path)"
        )
    reason = message.strip().splitlines()[0][:200] if message.strip() else "unexpected end of file"
    return (
        f"{path} cannot be read as a torch checkpoint; it is probably cut short or damaged: fetch it again ({reason})"
    )
