"""``python -m perturb.world export --out FOLDER``: the embedded world as files that a training can read."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, get_args

from perturb.arguments import exit_code, make_parser
from perturb.store.paths import resolve
from perturb.world.export import GRADES, Export, Form, export
from perturb.world.render import Grade

DESCRIPTION = """\
Write the embedded world to files: mp4 or png with captions.csv (path, caption, fps, duration), or webdataset shards.
Without --fps, one clip in four has 16 frames per second and the others 8, as in a training on the world itself."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit code: 0, or 2 with a message when the user has to mend something."""
    options = _parser().parse_args(arguments)
    return exit_code(lambda: _export(options))


def _export(options: argparse.Namespace) -> None:
    given: dict[str, Any] = {field.name: getattr(options, field.name) for field in fields(Export)}
    settings = Export(**{**given, "fps": tuple(options.fps)})
    print(f"{settings.count} {settings.grade}-grade {settings.kind}: {export(settings, options.out)}")


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("perturb.world")
    commands = parser.add_subparsers(required=True, metavar="export")
    command = commands.add_parser("export", description=DESCRIPTION, formatter_class=parser.formatter_class)
    command.add_argument("--out", required=True, type=resolve, help="folder to write to; it must be empty or not exist")
    command.add_argument("--kind", choices=tuple(GRADES), default="clips")
    command.add_argument("--grade", choices=get_args(Grade), default="low", help="clips: low, high; stills: web, high")
    command.add_argument("--count", type=int, required=True, help="how many samples")
    command.add_argument("--seed", type=int, required=True, help="the stream of scenes")
    command.add_argument("--form", choices=get_args(Form), default="files", help="files with a table, or tar shards")
    command.add_argument("--frames", type=int, default=Export.frames, help="frames of a clip (default %(default)s)")
    command.add_argument("--fps", type=float, nargs="+", default=Export.fps, help="frames per second, in turn")
    command.add_argument("--lossless", action="store_true", help="RGB at qp 0 instead of yuv420p at crf 16")
    command.add_argument("--per-shard", type=int, default=Export.per_shard, help="samples per shard")
    return parser


if __name__ == "__main__":
    sys.exit(main())
