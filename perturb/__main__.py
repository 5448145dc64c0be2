"""`perturb COMMAND …`, the same as `python -m perturb.COMMAND …`; `perturb COMMAND --help` says more of each."""

import sys
from importlib import import_module
from importlib.metadata import version

from perturb.store.paths import conf_dir

COMMANDS = {
    "run": "one perturbation study, from configuration to report",
    "compare": "adapters side by side, ranked by motion kept and look gained",
    "sample": "clips from prompts, longer or between frames too, with or without an adapter",
    "score": "a folder of clips, or finished runs again",
    "report": "a page about runs; a gallery of a folder; a page for a blind test",
    "fetch": "published checkpoints, on request, from the hub",
    "push": "adapters or small models to the hub",
    "train": "train a model, or fine-tune one",
    "convert": "checkpoints from one format into another, adapters for other libraries",
    "partition": "which tensors of a model are space, time, conditioning, image",
    "verify": "whether two finished trainings are twins",
    "metrics": "which metrics there are, and what each lacks",
    "world": "export clips of the embedded world",
    "analysis.summary": "table and figure of one run",
    "analysis.coupling": "the verdict, tables and figures of a study",
    "analysis.finetuning": "what fine-tuning did to motion",
    "analysis.landscape": "motion over both perturbations at once",
    "analysis.layers": "which parts of the network the loss sits in",
    "analysis.adapters": "given adapters by motion kept and look gained",
    "analysis.votes": "the votes of a blind test",
    "analysis.crosstalk": "which metric answers to which distortion",
}
"""Name → what it does. A name is that of its module."""
WORDS = "--words"
"""What a shell completes: the commands, and every choice of the configuration."""


def main() -> int | None:
    """The command: 0, or the exit code of what was called."""
    name, rest = (sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else ("--help", [])
    if name in COMMANDS:
        sys.argv = [f"perturb {name}", *rest]
        module = import_module(f"perturb.{name}")
        if hasattr(module, "__path__"):
            module = import_module(f"perturb.{name}.__main__")
        return module.main()
    if name == "--version":
        print(f"perturb {version('perturb')}")
    elif name == WORDS:
        print(*COMMANDS, *words(), sep="\n")
    elif name in ("--help", "-h"):
        width = max(map(len, COMMANDS)) + 2
        print("perturb COMMAND …\n", *(f"  {command:{width}}{what}" for command, what in COMMANDS.items()), sep="\n")
        print("\nperturb COMMAND --help says more. Completion of commands and choices in bash:")
        print(f'  complete -o default -W "$(perturb {WORDS})" perturb')
    else:
        print(f"error: perturb has no command {name!r}; allowed: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    return 0


def words() -> list[str]:
    """``group=choice`` for every yaml of the configuration."""
    return sorted(
        f"{file.parent.relative_to(conf_dir()).as_posix()}={file.stem}"
        for file in conf_dir().rglob("*.yaml")
        if file.parent != conf_dir() and "hydra" not in file.parts
    )


if __name__ == "__main__":
    sys.exit(main())
