"""Published weights of learned metrics, brought to where they are looked for; only when somebody asks for them."""

from collections.abc import Sequence
from pathlib import Path

from perturb.errors import UserError
from perturb.metrics.base import Unavailable
from perturb.metrics.learned.weights import MODEL_FILES, Repository, WeightFile, Weights, shown
from perturb.metrics.page import infos, weights
from perturb.store.download import download, download_hub, hub_files, size_of


def fetch(names: Sequence[str], folder: str | None) -> None:
    """Bring the weights of that name, or those that the metrics of that name need; what is there is not brought again.

    Licence, size and SHA-256 are printed first. Raises UserError for an unknown name, and as of `store.download`.
    """
    for one in chosen(names):
        try:
            print(f"{one.name}: present, {shown(one.find(folder))}")
        except Unavailable as reason:
            if isinstance(one, WeightFile):
                _file(one, folder)
            elif isinstance(one, Repository):
                _repository(one, folder)
            else:
                raise UserError(str(reason)) from reason


def chosen(names: Sequence[str]) -> list[Weights]:
    """The weights meant by the names, each once."""
    known = {one.name: one for one in weights()}
    wanted = {info.name: [need for need in info.needs if need in known] for info in infos()}
    wanted = {name: needs for name, needs in wanted.items() if needs} | {name: [name] for name in known}
    if unknown := [name for name in names if name not in wanted]:
        raise UserError(f"{unknown[0]!r} has no weights to fetch; allowed: {', '.join(wanted)}")
    return [known[name] for name in dict.fromkeys(need for name in names for need in wanted[name])]


def _file(one: WeightFile, folder: str | None) -> None:
    target = next(one.places(folder))
    known = f"SHA-256 {one.digest}{'' if len(one.digest) == 64 else '… (no more of it is known)'}"
    size = f"{size_of(one.url) / 1e6:,.3f} MB"
    print(f"{one.url}: {size}, licence: {one.licence}, {known if one.digest else 'no hash known'}")
    if not target.is_file():
        print(f"{shown(target)}: SHA-256 {download(one.url, target, digest=one.digest)}")
    if missing := one.missing(target):
        print(f"{missing}; {one.advice}")


def _repository(one: Repository, folder: str | None) -> None:
    files = hub_files(one.name, (*one.files, *MODEL_FILES))
    if all(name in files.sizes for name in MODEL_FILES):  # two formats of the same; the first cannot run code
        del files.sizes[MODEL_FILES[1]]
        files.digests.pop(MODEL_FILES[1], None)
    print(files)
    print(shown(download_hub(files, Path(folder).expanduser() / one.name if folder else None)))
