"""Files that cannot be read: each is logged and listed once, and too many are an error."""

import itertools
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from perturb.data.source import BrokenSample
from perturb.errors import UserError

LOG = logging.getLogger(__name__)
MIN_TRIED = 20  # before a share of broken files means anything


@dataclass(frozen=True)
class BrokenReport:
    """``tried``: files asked for; ``count``: different files that were broken; ``files``: path → reason."""

    tried: int
    count: int
    files: Mapping[str, str]


class Breakage:
    """Counts broken files, logs each once, and raises UserError when more than ``limit`` of the tries failed.

    Tries, not different files: a file that is broken in every epoch is a loss in every epoch.
    """

    def __init__(self, limit: float) -> None:
        self.limit, self.tried, self.failed = limit, 0, 0
        self.files: dict[str, str] = {}

    def good(self) -> None:
        """A file was read."""
        self.tried += 1
        self._check()

    def bad(self, error: BrokenSample) -> None:
        """A file could not be read."""
        self.note(error)
        self.tried += 1
        self.failed += 1
        self._check()

    def _check(self) -> None:
        if self.tried >= MIN_TRIED and self.failed > self.limit * self.tried:
            examples = "; ".join(f"{path} ({reason})" for path, reason in itertools.islice(self.files.items(), 3))
            raise UserError(
                f"{self.failed} of {self.tried} files could not be read, more than max_broken_fraction="
                f"{self.limit:g}; {len(self.files)} different ones, e.g. {examples}: mend or remove them"
            )

    def note(self, error: BrokenSample) -> None:
        """Log and list a file, once."""
        if error.path not in self.files:
            self.files[error.path] = error.reason
            LOG.warning("left out: %s", error)

    def report(self) -> BrokenReport:
        """What there was so far."""
        return BrokenReport(self.tried, len(self.files), dict(self.files))

    def state(self) -> dict[str, Any]:
        """To be restored."""
        return {"tried": self.tried, "failed": self.failed, "files": dict(self.files)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Count on from a saved state."""
        self.tried, self.failed, self.files = state["tried"], state["failed"], dict(state["files"])
