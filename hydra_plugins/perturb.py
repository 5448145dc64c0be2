"""Where hydra finds the launchers of perturb/cli/launchers.py: it takes them from the namespace hydra_plugins alone."""

from perturb.cli.launchers import Joblib, SubmititLocal, SubmititSlurm

__all__ = ["Joblib", "SubmititLocal", "SubmititSlurm"]
