"""Published files, on request alone: gone on with where they stopped, through the user's proxy, checked by SHA-256.

A file of the web goes through urllib, a repository of the Hugging Face hub through huggingface_hub; both honour
HTTP_PROXY, HTTPS_PROXY and NO_PROXY.
"""

from collections.abc import Collection, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, build_opener

from perturb.errors import UserError
from perturb.progress import progress
from perturb.store.hashes import sha256

TIMEOUT = 60.0  # seconds without a byte
BLOCK = 1 << 20


def size_of(url: str) -> int:
    """Bytes of a file of the web, as its server says. UserError where it does not answer."""
    with _told(url), build_opener().open(Request(url, method="HEAD"), timeout=TIMEOUT) as answer:
        return int(answer.headers.get("Content-Length", 0))


def download(url: str, target: Path, *, digest: str = "") -> str:
    """Bring a file; its SHA-256, which must begin with ``digest``.

    What has come lies in TARGET.part until all is there, and is gone on with by the next call. UserError when the
    connection breaks or the hash is another; a file with a wrong hash is not kept.
    """
    part = target.with_name(f"{target.name}.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    with _told(url, part):
        _receive(url, part)
    return _accept(part, target, digest, url)


def _receive(url: str, part: Path) -> None:
    have = part.stat().st_size if part.exists() else 0
    try:
        answer = build_opener().open(Request(url, headers={"Range": f"bytes={have}-"} if have else {}), timeout=TIMEOUT)
    except HTTPError as error:
        if have and error.code == 416:  # nothing is left to send: all of it has come before
            return
        raise
    with answer:
        resumed = answer.status == 206
        left = int(answer.headers.get("Content-Length", 0))
        with part.open("ab" if resumed else "wb") as file, progress(part.stem, left / 1e6) as advance:
            while block := answer.read(BLOCK):
                file.write(block)
                advance(len(block) / 1e6)
                left -= len(block)
    if left > 0:
        raise HTTPException(f"{left:,} bytes are missing")


def _accept(part: Path, target: Path, digest: str, source: str) -> str:
    found = sha256(part)
    if not found.startswith(digest):
        part.unlink()
        raise UserError(f"{source} has SHA-256 {found}, not {digest}: the file was changed or damaged and is not kept")
    part.replace(target)
    return found


@dataclass(frozen=True)
class HubFiles:
    """Files of a repository of the hub at one commit, as the hub describes them: licence, bytes and SHA-256 by name.

    The hub knows the SHA-256 of large files only.
    """

    repository: str
    commit: str
    licence: str
    sizes: dict[str, int]
    digests: dict[str, str]

    def __str__(self) -> str:
        lines = [f"{self.repository} at {self.commit[:12]}, licence: {self.licence}"]
        for name, size in self.sizes.items():
            lines.append(f"  {name}: {size / 1e6:,.1f} MB, SHA-256 {self.digests.get(name, 'unknown to the hub')}")
        return "\n".join(lines)


def hub_files(repository: str, wanted: Collection[str]) -> HubFiles:
    """What the hub says of those of the ``wanted`` files that it has. UserError where it does not answer."""
    from huggingface_hub import HfApi

    with _told(f"the repository {repository} of the hub"):
        info = HfApi().model_info(repository, files_metadata=True)
    files = [one for one in info.siblings or () if one.rfilename in wanted]
    licence = (info.card_data or {}).get("license") or "the repository names none"
    sizes = {one.rfilename: one.size or 0 for one in files}
    digests = {one.rfilename: one.lfs.sha256 for one in files if one.lfs}
    return HubFiles(repository, info.sha or "main", str(licence), sizes, digests)


def download_hub(files: HubFiles, folder: Path | None = None) -> Path:
    """Bring the files, one or more, into the hub's cache or a folder; where they lie. UserError as of `download`."""
    from huggingface_hub import hf_hub_download

    for name in files.sizes:
        with _told(f"the repository {files.repository} of the hub"):
            path = Path(hf_hub_download(files.repository, name, revision=files.commit, local_dir=folder))
        if (found := sha256(path)) != (digest := files.digests.get(name, found)):
            path.resolve().unlink()
            raise UserError(f"{files.repository}/{name} has SHA-256 {found}, not {digest}: it is not kept; try again")
    return path.parent


@contextmanager
def _told(source: str, part: Path | None = None) -> Generator[None]:
    """Errors of the network as a UserError that says how to go on."""
    from huggingface_hub.errors import HTTPError as HubError  # that of its client, httpx or another

    try:
        yield
    except (OSError, HTTPException, HubError) as error:
        kept = part.stat().st_size if part and part.exists() else 0
        more = f"; {kept:,} bytes are kept, and the same command goes on from there" if kept else ""
        raise UserError(
            f"{source}: {' '.join(str(error).split())}{more}. Behind a proxy, set HTTPS_PROXY; a token for closed "
            "repositories is HF_TOKEN"
        ) from error
