"""A report of all runs that one command made, after the last of them. Named in an experiment, as hydra.callbacks."""

from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from perturb.store.paths import resolve


class Together(Callback):
    """Writes ``report.html`` in runs_dir, of every finished run there."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Hydra's signature. Nothing is written for a plan, nor where no run was finished; others are left out."""
        runs = sorted(scores.parent for scores in resolve(config.runs_dir).glob("*/*/scores.csv"))
        if config.plan or not runs:
            return
        from perturb.analysis.report.content import Report
        from perturb.analysis.report.player import Settings
        from perturb.analysis.report.write import FILE, write_page
        from perturb.disks import convenience

        with convenience("the report of all runs is"):
            output = resolve(config.runs_dir) / FILE
            write_page(Report.of(runs), output, Settings(), ())
            print(f"report  {output}")
