"""`python -m perturb.fetch NAME`: a published model from the hub; its licence and size are printed first."""

import sys
from collections.abc import Sequence
from pathlib import Path

from perturb.arguments import exit_code, make_parser
from perturb.errors import UserError
from perturb.store.download import download_hub, hub_files
from perturb.store.paths import resolve

FILE = "model.ckpt"
MODELS = {
    "animatediff": ("guoyww/animatediff", "v3_sd15_mm.ckpt", "motion"),
    "dynamicrafter_256": ("Doubiiu/DynamiCrafter", FILE, "checkpoint"),
    "dynamicrafter_512": ("Doubiiu/DynamiCrafter_512", FILE, "checkpoint"),
    "dynamicrafter_1024": ("Doubiiu/DynamiCrafter_1024", FILE, "checkpoint"),
    "dynamicrafter_interpolation": ("Doubiiu/DynamiCrafter_512_Interp", FILE, "checkpoint"),
    "t2v_turbo_v1": ("jiachenli-ucsb/T2V-Turbo-VC2", "unet_lora.pt", "unet"),
    "t2v_turbo_v2": ("jiachenli-ucsb/T2V-Turbo-v2", "unet_no_mg.pt", "unet"),
    "t2v_turbo_v2_mg": ("jiachenli-ucsb/T2V-Turbo-v2", "unet_mg.pt", "unet"),
    "videocrafter1": ("VideoCrafter/Text2Video-512", FILE, "checkpoint"),
    "videocrafter1_1024": ("VideoCrafter/Text2Video-1024", FILE, "checkpoint"),
    "videocrafter1_i2v": ("VideoCrafter/Image2Video-512", FILE, "checkpoint"),
    "videocrafter2": ("VideoCrafter/VideoCrafter2", FILE, "checkpoint"),
}
"""A system of conf/system → the repository and file of its authors, as their README names them; the key it is for."""


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
    repository, file, key = MODELS[name]
    files = hub_files(repository, [file])
    if not files.sizes:
        raise UserError(f"{repository} has no {file} (any more); look at https://huggingface.co/{repository}")
    print(files)
    if not plan:
        place = download_hub(files, output or Path("checkpoints") / name) / file
        print(f"{place}\nuse it: python -m perturb.run system={name} system.{key}={place} …")


if __name__ == "__main__":
    sys.exit(main())
