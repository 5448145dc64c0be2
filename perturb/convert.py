"""``python -m perturb.convert SRC DST``: checkpoints and adapters, official, of diffusers or ours, into each other."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from perturb.arguments import exit_code, make_parser
from perturb.errors import UserError

if TYPE_CHECKING:
    from perturb.models.videocrafter.checkpoint import Source
    from perturb.models.videocrafter.spec import ModelSpec

Format = Literal["folder", "official", "diffusers"]

DESCRIPTION = """\
Convert between an official checkpoint (.ckpt, safetensors, sharded safetensors), a perturb folder (spec.json and one
safetensors file per component) and a folder of diffusers (unet, vae, text_encoder; ModelScope's format). Every tensor
keeps its bytes and dtype; there and back again gives the same state dict. Of an official file only the state dict is
read (not the epoch, nor the optimizer). What diffusers has no place for is left out: a frame rate becomes the one of
--fps, and the blocks of the text encoder that nobody reads are gone.

With an adapter SRC (a folder of peft's, or a file of diffusers, kohya or T2V-Turbo) of the model that --spec names, DST
is a folder of peft's, with --to diffusers a folder or .safetensors of theirs."""


def convert(
    source: str | Path,
    target: str | Path,
    *,
    spec: str | ModelSpec | None = None,
    to: Format | None = None,
    unet: str | Path | None = None,
    guidance_seed: int | None = None,
    fps: int | None = None,
    force: bool = False,
) -> str:
    """Convert ``source`` into ``target`` and return one line that says what was done.

    ``to`` defaults to the folder, of a folder to the official file. ``unet`` and ``guidance_seed``: `open_checkpoint`;
    ``fps``: `write_diffusers`. The target appears whole or not at all.
    Raises ``UserError`` when the source cannot be read or does not fit the spec, and when the target exists (without
    ``force``) or cannot be written.
    """
    from perturb.models.videocrafter.checkpoint import open_checkpoint
    from perturb.store.paths import resolve

    target = resolve(target)
    _check_target(target, resolve(source), force=force)
    opened = open_checkpoint(source, spec, unet=unet, guidance_seed=guidance_seed)
    to = to or ("official" if opened.format == "folder" else "folder")
    if fps is not None and to != "diffusers":
        raise UserError(f"fps is for --to diffusers; the {to} format keeps the frame rate as an input")
    try:
        if to == "diffusers":
            _write_diffusers(target, opened, fps)
        else:
            (_write_folder if to == "folder" else _write_official)(target, opened)
    except UserError:
        raise
    except Exception as error:  # torch, safetensors and the system each report a full disk in their own way
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"cannot write {target} ({reason}); nothing was left behind") from error
    count = sum(tensor.numel() for part in opened.components.values() for tensor in part.values())
    return f"{opened.spec.name}: {source} → {target} ({to}, {count:,} values)"


def convert_adapter(
    source: str | Path, target: str | Path, *, spec: str | None, to: str, names: str | None = None, force: bool = False
) -> str:
    """Write the adapter ``source`` of the model ``spec`` for peft or for diffusers; one line that says what was done.

    ``spec`` is a published model or a folder of ours. ``names`` of the layers for peft: official, diffusers, or None:
    ours. Raises ``UserError`` for what is no adapter of that model, and where a layer has no such name.
    """
    from perturb.models.names import DIFFUSERS
    from perturb.models.videocrafter.checkpoint import empty_system
    from perturb.models.videocrafter.folder import is_folder
    from perturb.perturbation import files, foreign
    from perturb.store.paths import resolve

    if spec is None:
        raise UserError(f"--to {to} needs --spec: the model that the adapter is of, or a folder made by this command")
    target = resolve(target)
    if target.exists() and not force:
        raise UserError(f"{target} exists; give another path, or --force to overwrite it")
    network = (empty_system(spec) if is_folder(resolve(spec)) else empty_system(None, spec)).unet
    adapter = foreign.read(network, resolve(source))
    names = DIFFUSERS if to == "diffusers" else names
    shown = adapter if names is None else foreign.their_names(adapter, network, names)
    if to == "peft":
        files.write(target, shown.config, shown.tensors)
    else:
        target = target if target.suffix == ".safetensors" else target / foreign.DIFFUSERS_FILE
        foreign.write_diffusers(shown, target)
    count = sum(tensor.numel() for tensor in adapter.tensors.values())
    return f"{source} → {target} ({to}, {len(adapter.factors)} layers, {count:,} values)"


def _check_target(target: Path, source: Path, *, force: bool) -> None:
    if target.exists() and not force:
        raise UserError(f"{target} exists; give another path, or --force to overwrite it")
    if target.resolve() == source.resolve():
        raise UserError(f"source and target are the same: {target}")
    if target.exists() and target.is_dir() and any(target.iterdir()) and not (target / "spec.json").is_file():
        raise UserError(f"{target} is a folder that is no checkpoint of ours; it will not be overwritten")


def _write_folder(target: Path, opened: Source) -> None:
    from perturb.models.videocrafter.folder import write_folder

    if target.is_file():
        raise UserError(f"{target} is a file, and our format is a folder; give another path, or --to official")
    tokenizer = opened.tokenizer()
    write_folder(target, opened.spec, opened.components, tokenizer=tokenizer, overwrite=True)


def _write_diffusers(target: Path, opened: Source, fps: int | None) -> None:
    from perturb.models.videocrafter.diffusers_folder import write_diffusers

    if target.is_file():
        raise UserError(f"{target} is a file, and the format of diffusers is a folder; give another path")
    write_diffusers(target, opened.spec, opened.components, fps)


def _write_official(target: Path, opened: Source) -> None:
    from perturb.models.videocrafter.files import write_checkpoint, write_safetensors
    from perturb.models.videocrafter.keymap import EXTRA, extra_keys, to_official
    from perturb.store.rundir import replacing

    if target.is_dir():
        raise UserError(f"{target} is a folder; an official checkpoint is one file (.ckpt or .safetensors)")
    if opened.spec.text.tokenizer == "file":
        raise UserError(
            f"{opened.spec.name} reads its words from tokenizer.json, which an official file cannot hold: it stays a "
            "folder, and is used as one"
        )
    if not opened.components[EXTRA]:
        # Made from scratch: the official loader wants tensors this model never had, and inventing them would be a lie.
        wanted = ", ".join(extra_keys(opened.spec))
        raise UserError(
            f"the source has no {EXTRA}.safetensors, so it never was official, and the official format wants what is "
            f"missing: {wanted}"
        )
    state = to_official(opened.components, opened.spec)
    with replacing(target) as temporary:
        (write_safetensors if target.suffix == ".safetensors" else write_checkpoint)(temporary, state)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit code: 0, or 2 with a message when the user has to mend something."""
    parser = make_parser("perturb.convert", DESCRIPTION)
    parser.add_argument("source", metavar="SRC", help="checkpoint to read")
    parser.add_argument("target", metavar="DST", help="folder, .ckpt or .safetensors to write")
    parser.add_argument(
        "--spec", help="published model that an official SRC is (default: recognised by its keys), or an adapter is of"
    )
    parser.add_argument(
        "--to",
        choices=("folder", "official", "diffusers", "peft"),
        help="format of DST (default: folder; of a folder of ours: official; of an adapter: peft)",
    )
    parser.add_argument("--adapter", action="store_true", help="SRC is an adapter, not a checkpoint")
    parser.add_argument("--names", choices=("official", "diffusers"), help="of an adapter's layers for peft")
    parser.add_argument("--unet", help="T2V-Turbo's unet_*.pt, where SRC is VideoCrafter2 and --spec a t2v_turbo")
    parser.add_argument(
        "--guidance-seed", type=int, help="of the guidance projection that unet_lora.pt lacks (default: zeros)"
    )
    parser.add_argument("--fps", type=int, help="with --to diffusers: the frame rate that the network keeps")
    parser.add_argument("--force", action="store_true", help="overwrite DST")
    given = parser.parse_args(arguments)
    return exit_code(lambda: print(_convert(given)))


def _convert(given: argparse.Namespace) -> str:
    if given.adapter or given.to == "peft":
        to = given.to or "peft"
        if given.names and to != "peft":
            raise UserError("--names is for --to peft alone")
        return convert_adapter(given.source, given.target, spec=given.spec, to=to, names=given.names, force=given.force)
    return convert(**{name: value for name, value in vars(given).items() if name not in ("adapter", "names")})


if __name__ == "__main__":
    sys.exit(main())
