"""Runs commands for the tests in real processes, without paying seconds of imports for each.

Imports everything once, then forks a process per request. stdin: one JSON object per line, ``module``, ``arguments``,
``log`` (a file for stdout and stderr) and ``kill``: null, or [pattern, n, "before" | "after"]: the process ends itself
with SIGKILL around the n-th atomic rename to a path that matches; "stop": it is asked to stop after it, by SIGTERM.
stdout: the return code, negative for a signal.
"""

import fnmatch
import importlib
import json
import os
import signal
import sys
import traceback
from pathlib import Path

COMMANDS = ("perturb.run", "perturb.sample", "perturb.score", "perturb.compare", "perturb.partition")
HEAVY = (
    "perturb.cli.config",
    "perturb.cli.plan",
    "perturb.training.data",
    "perturb.training.diffusion",
    "perturb.study.rescore",
    "perturb.study.score_folder",
    "perturb.analysis.summary",
    "perturb.analysis.figure",
    "perturb.analysis.report.write",
    "diffusers",
    "peft",
    "transformers",
    "av",
)


def main() -> None:
    for name in (*COMMANDS, *HEAVY):
        importlib.import_module(name)
    importlib.import_module("perturb.analysis.report.page").vega()  # kept for all children
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            _child(request)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _child(request: dict) -> None:
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    code = 1
    try:
        if request["kill"]:
            _kill_at(*request["kill"])
        sys.argv = [request["module"], *request["arguments"]]
        code = importlib.import_module(request["module"]).main() or 0
    except Exception:
        traceback.print_exc()
    except SystemExit as exit_:
        code = int(exit_.code or 0)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _kill_at(pattern: str, count: int, moment: str) -> None:
    rename, seen = Path.replace, 0

    def replace(self: Path, target: Path) -> Path:
        nonlocal seen
        matches = fnmatch.fnmatch(str(target), pattern)
        seen += matches
        if matches and seen == count and moment == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = rename(self, target)
        if matches and seen == count:
            os.kill(os.getpid(), signal.SIGTERM if moment == "stop" else signal.SIGKILL)
        return result

    Path.replace = replace  # type: ignore[method-assign]


if __name__ == "__main__":
    main()
