"""`python -m perturb.compare adapters=A,B,…`: the same prompts and noises under each and none, scored and ranked."""

from typing import Any

from perturb.cli.command import check_paths, run_command
from perturb.run import run

STUDY_ONLY = ("fit", "probe_steps", "group", "own_images")
"""What a system's configuration sets for studies alone."""


def compare(values: dict[str, Any]) -> None:
    """Begin or continue the run whose states are the adapters; its report.html ranks them."""
    values = {key: value for key, value in values.items() if key not in STUDY_ONLY}
    values["images"] = None  # nothing is fitted
    check_paths(values)
    adapters = values.pop("adapters")
    perturbation = {"_target_": "perturb.perturbation.adapters.AdaptersPerturbation", "adapters": adapters}
    # an adapter may touch any group
    run({**values, "group": "all", "probe_steps": None, "perturbation": perturbation})


def main() -> None:
    """The command."""
    run_command(compare, "compare")


if __name__ == "__main__":
    main()
