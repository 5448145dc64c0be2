"""`python -m perturb.fetch NAME`: a published model from the hub; its licence and size are printed first."""

import sys
from collections.abc import Sequence
from pathlib import Path

from perturb.arguments import exit_code, make_parser
from perturb.errors import UserError
from perturb.store.download import download_hub, hub_files
from perturb.store.paths import resolve

MODELS = {
    "dynamicrafter_256": "Doubiiu/DynamiCrafter",
    "dynamicrafter_512": "Doubiiu/DynamiCrafter_512",
    "dynamicrafter_1024": "Doubiiu/DynamiCrafter_1024",
    "dynamicrafter_interpolation": "Doubiiu/DynamiCrafter_512_Interp",
    "videocrafter1": "VideoCrafter/Text2Video-512",
    "videocrafter1_1024": "VideoCrafter/Text2Video-1024",
    "videocrafter1_i2v": "VideoCrafter/Image2Video-512",
    "videocrafter2": "VideoCrafter/VideoCrafter2",
}
"""A system of conf/system → the repository in which its authors publish it, as their README names it."""

FILE = "model.ckpt"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = make_parser("perturb.fetch", __doc__)
    parser.add_argument("name", metavar="NAME", help=f"one of {', '.join(MODELS)}")
    parser.add_argument("-o", "--output", type=resolve, metavar="FOLDER", help="default: checkpoints/NAME")
    parser.add_argument("--plan", action="store_true", help="print licence, size and hash, and stop")
    given = parser.parse_args(arguments)
    return exit_code(lambda: _fetch(given.name, given.output, plan=given.plan))


def _fetch(name: str, output: Path | None, *, plan: bool) -> None:
    if name not in MODELS:
        raise UserError(f"{name!r} is no published model that can be fetched; allowed: {', '.join(MODELS)}")
    files = hub_files(MODELS[name], [FILE])
    if not files.sizes:
        raise UserError(
            f"{files.repository} has no {FILE} (any more); look at https://huggingface.co/{files.repository}"
        )
    print(files)
    if not plan:
        place = download_hub(files, output or Path("checkpoints") / name) / FILE
        print(f"{place}\nuse it: python -m perturb.run system={name} system.checkpoint={place} …")


if __name__ == "__main__":
    sys.exit(main())
