"""`python -m perturb.push FOLDER OWNER/NAME`: adapters or a small model of ours to a repository of the hub.

FOLDER has adapter_config.json (a state of a run: runs/…/adapters/step_000300) or models with spec.json in it or below
it (perturb/weights/nano). The token is HF_TOKEN, or that of `hf auth login`."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from perturb.analysis.notation import leaf
from perturb.arguments import exit_code, make_parser
from perturb.errors import UserError
from perturb.store.paths import resolve, walk

TRAINING = "training.json"
CARD = """\
---
library_name: perturb
tags: [video-diffusion, {kind}]
---

# {title}

{kind} of a study with `perturb`: made by `python -m perturb.push`.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = make_parser("perturb.push", __doc__)
    parser.add_argument("folder", type=resolve, metavar="FOLDER", help="what to push")
    parser.add_argument("repository", metavar="OWNER/NAME", help="is made where it does not exist")
    parser.add_argument("--public", action="store_true", help="a repository that is made is open to all")
    given = parser.parse_args(arguments)
    return exit_code(lambda: print(push(given.folder, given.repository, public=given.public)))


def push(folder: Path, repository: str, *, public: bool = False) -> str:
    """Push every visible file of ``folder`` as one commit, with a card where it has none; the commit's address.

    What a training says of itself loses the folders of its paths: they are nobody else's.

    Raises UserError for a folder that holds neither adapters nor models, or that lacks files its models point to.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HTTPError

    kind = _kind(folder)
    files = sorted(path for path in walk(folder) if path.is_file())
    added = [CommitOperationAdd(path.relative_to(folder).as_posix(), _content(path)) for path in files]
    if not (folder / "README.md").is_file():
        card = CARD.format(kind=kind, title=repository.rpartition("/")[2])
        added.append(CommitOperationAdd("README.md", card.encode()))
    api = HfApi()
    try:
        api.create_repo(repository, private=not public, exist_ok=True)
        done = api.create_commit(repository, added, commit_message=f"Add {kind} of perturb")
    except (OSError, HTTPError, ValueError) as error:
        raise UserError(
            f"{repository}: {' '.join(str(error).split())}. Is it OWNER/NAME, and is HF_TOKEN one that may write to it?"
        ) from error
    return str(done.commit_url)


def _content(path: Path) -> Path | bytes:
    if path.name != TRAINING:
        return path
    return json.dumps(_without_folders(json.loads(path.read_text(encoding="utf-8"))), indent=2).encode()


def _without_folders(value: Any) -> Any:
    """A JSON value whose absolute paths are cut to their last part."""
    if isinstance(value, dict):
        return {leaf(key): _without_folders(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_without_folders(each) for each in value]
    return leaf(value) if isinstance(value, str) else value


def _kind(folder: Path) -> str:
    if (folder / "adapter_config.json").is_file():
        return "adapter"
    specs = [*folder.rglob("spec.json")] if folder.is_dir() else []
    if not specs:
        raise UserError(f"{folder} has neither adapter_config.json nor a model with spec.json in it or below it")
    for spec in specs:
        for file in json.loads(spec.read_text()).get("files", {}).values():
            if not (spec.parent / file).resolve().is_relative_to(folder.resolve()):
                raise UserError(f"{spec} points to {file}, outside of {folder}: push the folder that holds both")
    return "models"


if __name__ == "__main__":
    sys.exit(main())
