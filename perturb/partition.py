"""`python -m perturb.partition system=…`: which tensors of a model are space, time, conditioning, image."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from perturb.cli.command import check_paths, run_command
from perturb.errors import UserError
from perturb.store.paths import resolve
from perturb.store.rundir import write_atomic

if TYPE_CHECKING:
    from pathlib import Path

    from perturb.cli.config import NamesConfig
    from perturb.models.base import VideoModel
    from perturb.models.partition import Partition

FILES = ("checkpoint", "motion", "unet")
"""Arguments of a system that name files with tensors of its network."""

# torch takes seconds to import: --help and plain mistakes do not wait for it.


def partition(values: dict[str, Any]) -> None:
    """Print counts of every group, or the names in one; with ``output`` write a list for other code."""
    from perturb.cli.config import NamesConfig, empty, has_empty, load
    from perturb.models.partition import Partition
    from perturb.structured import MISSING_VALUE, read

    config = read(NamesConfig, {key: values[key] for key in ("system", "partition", "group", "names", "output")})
    known, unread = MISSING_VALUE not in config.system.values(), has_empty(config.system)
    if known or config.group or config.output or not unread:  # counts alone need no file
        check_paths(values)
    system = empty(config.system, "meta") if unread else load(config.system)
    groups = config.partition.groups
    found = system.partition() if groups is None else Partition.named(system.network, groups)
    if config.group is not None:
        found.names(config.group)  # raises for a group that there is not
    names = _names(config, system) if known else {}
    chosen = tuple(found.groups) if config.group is None else (config.group,)
    lists = {group: [names.get(name, name) for name in found.names(group)] for group in chosen}
    if config.output is not None:
        path = resolve(config.output)
        write_atomic(path, _written(path.suffix, lists))
        print(f"list   {path} ({sum(map(len, lists.values()))} names)")
    elif config.group is not None:
        print("\n".join(lists[config.group]))
    else:
        print(_table(found, lists))


def _names(config: NamesConfig, system: VideoModel) -> dict[str, str]:
    """Our parameter → its name as asked for; those that have none there keep ours."""
    from perturb.models.names import names_in, vocabularies

    books = vocabularies(system.network)
    if config.names == "ours" or (config.names == "checkpoint" and not books):  # of diffusers' own classes
        return {}
    if config.names == "checkpoint":
        files = (config.system.get(key) for key in FILES)
        originals = {name: key for file in files if file for name, key in _keys(resolve(file)).items()}
        return {ours: originals[key] for ours, key in names_in(originals, system.network).items()}
    if config.names not in books:
        allowed = ", ".join(("checkpoint", "ours", *books))
        raise UserError(f"names is {config.names!r}; allowed for this model: {allowed}")
    return {ours: theirs for theirs, ours in books[config.names].items()}


def _keys(checkpoint: Path) -> dict[str, str]:
    """Key as a published class has it → key in the file; of a folder of parts, ours or diffusers', the UNet's."""
    from perturb.models.videocrafter.files import read_weights
    from perturb.models.videocrafter.folder import is_folder, read_folder
    from perturb.models.videocrafter.keymap import renamed

    if is_folder(checkpoint):
        return {key: key for key in read_folder(checkpoint)[1]["unet"]}
    part = checkpoint / "unet"
    return renamed({key: key for key in read_weights(part if part.is_dir() else checkpoint)})


def _written(suffix: str, lists: dict[str, list[str]]) -> str:
    if suffix == ".json":
        return json.dumps(lists, indent=1) + "\n"
    if len(lists) > 1:
        raise UserError("a text holds the names of one group: give group=temporal, or an output that ends in .json")
    return "".join(f"{name}\n" for (names,) in [lists.values()] for name in names)


def _table(found: Partition, lists: dict[str, list[str]]) -> str:
    """A line per group: tensors, parameters, share, and one name."""
    total = sum(found.counts().values())
    rows = [("group", "tensors", "parameters", "share", "for example")]
    for group, names in lists.items():
        count = found.count(group)
        rows.append((group, f"{len(names):,}", f"{count:,}", f"{count / total:.1%}", names[0] if names else "–"))
    rows.append(("all", f"{len(found.shapes):,}", f"{total:,}", "", ""))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        f"{a:{w[0]}}  {b:>{w[1]}}  {c:>{w[2]}}  {d:>{w[3]}}  {e}".rstrip() for w in [widths] for a, b, c, d, e in rows
    )


def main() -> None:
    """The command."""
    run_command(partition, "partition")


if __name__ == "__main__":
    main()
