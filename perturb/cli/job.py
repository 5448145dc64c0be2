"""One job of a command: what becomes of it is an exit code and a message, wherever it runs."""

import sys
import traceback
from collections.abc import Callable
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from perturb.arguments import MISTAKE
from perturb.device import use_threads
from perturb.disks import writing
from perturb.errors import UserError
from perturb.loop.rank import is_main_process
from perturb.loop.stop import STOPPED, Stopped, Terminated, terminable

Task = Callable[[dict[str, Any]], None]
"""A command's own part, given the resolved configuration."""
CRASHED = 1


class Job:
    """What hydra calls for each job in this process; `code` is that of the whole command.

    In a sweep the jobs after one that fails go on, those after one that was asked to stop are not begun.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self.codes: list[int] = []

    def __call__(self, config: DictConfig) -> None:
        """Do the task with ``config`` and say what went wrong. SystemExit where it was asked to stop."""
        hydra = HydraConfig.get()
        title = ",".join(hydra.overrides.task) if hydra.mode is RunMode.MULTIRUN else None
        values: Any = OmegaConf.to_container(config, resolve=True)
        code, message = attempt(self.task, values, title)
        self.ended(code, message)
        if code == STOPPED:
            raise SystemExit(STOPPED)

    def ended(self, code: int, message: str) -> None:
        """A job came to this end, here or elsewhere."""
        if message:
            print(message, file=sys.stderr)
        self.codes.append(code)

    @property
    def code(self) -> int:
        """0 where all jobs ended well; else 1 if any crashed, or 2 for a mistake, or 75 to give the command again."""
        return min(filter(None, self.codes), default=0)


def attempt(task: Task, values: dict[str, Any], title: str | None) -> tuple[int, str]:
    """Do ``task``: the exit code and the message, which names the job ``title`` of a sweep (None: it is no sweep).

    SIGTERM ends it with 75: in a loop after its state is saved, elsewhere at once, since what is finished is on disk.
    Any other error is raised, or told with its traceback in a sweep.
    """
    where = f" in {title}" if title else ""
    try:
        with terminable():
            use_threads(values.get("threads"))
            with writing():
                task(values)
    except UserError as error:
        return MISTAKE, f"error{where}: {error}"
    except (Stopped, Terminated) as stopped:
        message = f"{title}: {stopped}" if title else str(stopped)
        return STOPPED, message if is_main_process() else ""
    except Exception as error:
        if title is None or isinstance(error, BrokenPipeError):
            raise
        return CRASHED, f"error{where}: {traceback.format_exc()}".rstrip()
    return 0, ""
