"""Jobs of a sweep side by side: hydra/launcher=joblib, submitit_local, submitit_slurm.

Each is a process of its own, and what becomes of one does not touch the others. Hydra's own plugins for joblib and
submitit (1.2.0, of 2022) tell one failure of many. When a process dies, the first ends all jobs, and the second does
not say which it was.
"""

import os
import queue
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from types import ModuleType
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, filter_overrides
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from perturb.arguments import cause, exit_code
from perturb.cli.job import CRASHED, Job, Task, attempt
from perturb.errors import UserError
from perturb.loop.stop import STOPPED, StopRequest
from perturb.structured import check_range, read

PLUGINS = "hydra_plugins.perturb"  # by this name hydra knows them
POLL, POLL_SLURM = 0.2, 10.0  # seconds between two looks at jobs on this machine, and on a cluster
VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Launched:
    """One job for a process elsewhere: ``title``, its words on the command line, and its resolved configuration."""

    task: Task
    title: str
    values: dict[str, Any]

    def run(self, gpus: str | None) -> tuple[int, str]:
        """Exit code and message, which is also printed here; ``gpus`` are those that the job sees, None is all."""
        os.environ.pop(VISIBLE, None)
        if gpus is not None:
            os.environ[VISIBLE] = gpus
        code, message = attempt(self.task, self.values, self.title)
        if message:
            sys.stderr.write(f"{message}\n")  # at once: other jobs may write there too
        return code, message


@dataclass(frozen=True, kw_only=True)
class Local:
    """Settings on this machine: the numbers of the GPUs to hand out."""

    gpus: tuple[int, ...] | None

    def visible(self, count: int = 1) -> list[str | None]:
        """The GPUs, or without any ``count`` times what this process sees."""
        return [str(gpu) for gpu in self.gpus or ()] or [os.environ.get(VISIBLE)] * count


@dataclass(frozen=True, kw_only=True)
class JoblibConfig(Local):
    """Of hydra/launcher=joblib."""

    n_jobs: int

    def __post_init__(self) -> None:
        if self.n_jobs == 0:
            raise UserError("hydra.launcher.n_jobs is 0; allowed: at least 1, or -1 for as many as there are cores")


@dataclass(frozen=True, kw_only=True)
class SubmititConfig(Local):
    """Of hydra/launcher=submitit_local."""

    submitit_folder: str
    timeout_min: int

    def __post_init__(self) -> None:
        check_range("hydra.launcher.timeout_min", self.timeout_min, low=1)


class SideBySide(Launcher):
    """What the launchers share; ``settings`` are the yaml in conf/hydra/launcher."""

    def __init__(self, **settings: Any) -> None:
        self.settings = {key: OmegaConf.to_object(v) if OmegaConf.is_config(v) else v for key, v in settings.items()}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Hydra's signature."""
        assert isinstance(task_function, Job)
        self.job, self.config, self.loader = task_function, config, hydra_context.config_loader

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Hydra's signature. All jobs have ended when this returns; `Job.code` knows how."""
        jobs = [self._compose(initial_job_idx + place, words) for place, words in enumerate(job_overrides)]
        self.start(jobs)
        return [JobReturn(overrides=words, status=JobStatus.COMPLETED) for words in job_overrides]

    def start(self, jobs: Sequence[Launched]) -> None:
        """See the jobs through, and tell ``self.job`` how each ended."""
        raise NotImplementedError

    def _follow(self, jobs: Sequence[Launched], begun: Sequence[Any], poll: float) -> None:
        """Wait for jobs of submitit, and tell of each when it has ended."""
        submitit = _extra("submitit")
        named = {job.job_id: launched.title for job, launched in zip(begun, jobs, strict=True)}
        for job in submitit.helpers.as_completed(begun, poll_frequency=poll):
            title, paths = named[job.job_id], job.paths
            try:
                code, message = job.result()
            except submitit.core.utils.UncompletedJobError:
                log = f"{paths.stderr} and {paths.stdout.name}"
                code, message = CRASHED, f"error in {title}: its process died; what it said is in {log}"
            self.job.ended(code, message)
            if code == 0:
                print(f"finished  {title}  {paths.stdout}")

    def _compose(self, number: int, overrides: Sequence[str]) -> Launched:
        config = self.loader.load_sweep_config(self.config, list(overrides))
        with open_dict(config.hydra.job):
            config.hydra.job.num = config.hydra.job.id = number
        HydraConfig.instance().set_config(config)  # for what a configuration takes from ${hydra:…}
        own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
        values: Any = OmegaConf.to_container(own, resolve=True)
        return Launched(self.job.task, ",".join(filter_overrides(overrides)), values)


class Joblib(SideBySide):
    """``n_jobs`` at a time on this machine. With ``gpus``, a list of numbers, each job has one of them to itself."""

    __module__ = PLUGINS

    def start(self, jobs: Sequence[Launched]) -> None:
        """See all through. Where this process is asked to stop, so are those that run, and it leaves: SystemExit."""
        joblib = _extra("joblib")
        settings = read(JoblibConfig, self.settings, "hydra.launcher")
        gpus = settings.visible(joblib.effective_n_jobs(settings.n_jobs))
        self.free: queue.Queue[str | None] = queue.Queue()
        for gpu in gpus:
            self.free.put(gpu)
        self.running: set[BaseProcess] = set()
        self.request = StopRequest(action=self._stop)
        with self.request.listening():
            # a thread for each that runs, which does nothing but wait: when a process of joblib's own dies, all end
            parallel = joblib.Parallel(n_jobs=len(gpus), backend="threading", batch_size=1)
            codes = parallel(joblib.delayed(self._see_through)(job) for job in jobs)
        for job, code in zip(jobs, codes, strict=True):
            died = f"error in {job.title}: its process died ({cause(code)})" if code < 0 else ""
            self.job.ended(CRASHED if code < 0 else code, died)  # what lived has told already
        if self.request.requested:
            raise SystemExit(STOPPED)

    def _see_through(self, job: Launched) -> int:
        """The exit code of a job, which waits for a GPU; it is not begun where this process was asked to stop."""
        gpu = self.free.get()
        try:
            return STOPPED if self.request.requested else self._process(job, gpu)
        finally:
            self.free.put(gpu)

    def _process(self, job: Launched, gpu: str | None) -> int:
        process = get_context("spawn").Process(target=_in_process, args=(job, gpu))
        process.start()
        self.running.add(process)
        if self.request.requested:  # meanwhile
            process.terminate()
        while process.exitcode is None:  # another thread that starts a process looks after this one too
            process.join()
        self.running.discard(process)
        return STOPPED if self.request.requested and process.exitcode == -signal.SIGTERM else process.exitcode

    def _stop(self) -> None:
        for process in list(self.running):
            process.terminate()


class SubmititLocal(SideBySide):
    """All at once on this machine, by submitit, with a log each; they outlive this process.

    ``gpus``, a list of numbers, are handed out by turns.
    """

    __module__ = PLUGINS

    def start(self, jobs: Sequence[Launched]) -> None:
        """Wait for all."""
        submitit = _extra("submitit")
        settings = read(SubmititConfig, self.settings, "hydra.launcher")
        gpus = settings.visible()
        executor = submitit.LocalExecutor(settings.submitit_folder)
        executor.update_parameters(timeout_min=settings.timeout_min)
        begun = [executor.submit(_on_this_machine, job, gpus[k % len(gpus)]) for k, job in enumerate(jobs)]
        self._follow(jobs, begun, POLL)


class SubmititSlurm(SideBySide):
    """As an array of Slurm's, by submitit. The settings beside ``submitit_folder`` are those of its SlurmExecutor."""

    __module__ = PLUGINS

    def start(self, jobs: Sequence[Launched]) -> None:
        """Wait for all. UserError for settings that submitit or sbatch refuse, and where there is no Slurm."""
        submitit = _extra("submitit")
        settings = {key: value for key, value in self.settings.items() if key != "submitit_folder"}
        try:
            executor = submitit.SlurmExecutor(self.settings["submitit_folder"])
            executor.update_parameters(**settings)
            begun = executor.map_array(_under_slurm, jobs)
        except (RuntimeError, ValueError) as error:
            raise UserError(f"hydra/launcher=submitit_slurm: {error}") from None
        self._follow(jobs, begun, POLL_SLURM)


def _in_process(job: Launched, gpus: str | None) -> None:
    sys.exit(exit_code(lambda: job.run(gpus)[0]))


def _on_this_machine(job: Launched, gpus: str | None) -> tuple[int, str]:
    _stop_at_time_limit()
    return job.run(gpus)


def _under_slurm(job: Launched) -> tuple[int, str]:
    """A job that was asked to stop leaves no result but its exit code, at which the batch script requeues it."""
    _stop_at_time_limit()
    code, message = job.run(os.environ.get(VISIBLE))
    if code == STOPPED:
        raise SystemExit(STOPPED)
    return code, message


def _stop_at_time_limit() -> None:
    """SIGUSR2, by which submitit announces the time limit, does what SIGTERM does."""
    signal.signal(signal.SIGUSR2, lambda number, frame: signal.raise_signal(signal.SIGTERM))


def _extra(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ModuleNotFoundError:
        raise UserError(f"this launcher needs {name}: pip install 'perturb[launchers]'") from None
