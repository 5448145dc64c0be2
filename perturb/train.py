"""`python -m perturb.train experiment=train/nano_full`: train a model from a recipe, on one process or several.

Several processes: `torchrun --nproc_per_node 2 -m perturb.train experiment=…`.
"""

from __future__ import annotations

import json
import platform
import shutil
import time
from typing import TYPE_CHECKING, Any

from perturb.cli.command import run_command
from perturb.errors import UserError
from perturb.store.paths import resolve
from perturb.store.rundir import write_atomic
from perturb.structured import MISSING_VALUE

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from accelerate import Accelerator

    from perturb.loop.task import Outcome
    from perturb.training.config import TrainConfig
    from perturb.training.diffusion import Trace

CARD = "training.json"
WANTED = {
    "init": "what to start from: Stable Diffusion 2.1 for image, else a model of perturb.train or perturb.convert",
    "data.video": "choose train/video=table, folder or shards, and give what that asks for",
    "data.images": "choose train/images=table, folder, dataset or shards, and give what that asks for",
    "work": "a folder for logs, samples and resumable states",
    "output": "a folder for the finished system",
}
"""What a recipe may leave to the user, and what the user is to give."""

# torch, accelerate and diffusers take seconds to import: a finished training, --help and plain mistakes do not wait.


def train(values: dict[str, Any]) -> None:
    """Begin or continue the training that the resolved configuration describes."""
    if values["plan"]:
        from perturb.cli.plan import print_training_plan

        return print_training_plan(values)
    if absent := sorted(_missing(values)):
        lines = (f"  {key}=…  {WANTED.get(key, '')}".rstrip() for key in absent)
        raise UserError("\n".join(["these are needed:", *lines]))
    output = resolve(values["output"])
    if (output / CARD).is_file():
        return print(f"already trained: {output} (delete it to train again)")
    return _train(values)


def _train(values: dict[str, Any]) -> None:
    """Train and write the card.

    Asked to stop (SIGTERM, Ctrl-C), the loop saves its state, and this leaves with exit code 75. UserError for a full
    disk, wherever it is met.
    """
    import torch

    from perturb.loop.processes import make_accelerator
    from perturb.loop.trackers import make_tracker
    from perturb.structured import read
    from perturb.training.config import TrainConfig

    config = read(TrainConfig, values)
    work, output = resolve(config.work), resolve(config.output)
    tracker = make_tracker(config.tracker, project=config.project, folder=work)
    accelerator = make_accelerator(config.loop, device=config.device, folder=work, tracker=tracker)
    torch.manual_seed(config.seed)
    try:
        card = _train_autoencoder(config, accelerator) if config.trained is None else _train_unet(config, accelerator)
        if accelerator.is_main_process:
            write_atomic(output / CARD, json.dumps(card | _circumstances(values, accelerator), indent=2) + "\n")
            print(f"trained {output}: {card['last']}")
    finally:
        accelerator.end_training()


def _train_autoencoder(config: TrainConfig, accelerator: Accelerator) -> dict[str, Any]:
    from safetensors.torch import save

    from perturb.models.videocrafter.encoders import build_vae
    from perturb.models.videocrafter.nano import NANO
    from perturb.nano.autoencoder import GRADES, VAEData, psnr, train_vae
    from perturb.nano.autoencoder_init import pass_through

    assert config.autoencoder is not None
    vae = build_vae(NANO.vae)
    pass_through(vae)
    vae.to(accelerator.device)
    stage = config.stages[0]
    data = VAEData(seed=config.seed, batch_size=stage.batch_size, crop_steps=config.autoencoder.crop_steps)
    outcome = train_vae(
        vae,
        data,
        config.loop,
        steps=stage.steps,
        folder=resolve(config.work),
        kl_weight=config.autoencoder.kl_weight,
        accelerator=accelerator,
    )
    weights = {name: tensor.cpu().contiguous() for name, tensor in vae.state_dict().items()}
    if accelerator.is_main_process:
        write_atomic(resolve(config.output) / "vae.safetensors", save(weights))
    quality = {grade: psnr(vae, grade, seed=config.seed + 1) for grade in GRADES}
    return {"recipe": config.recipe, "psnr_db": quality, **_describe(outcome)}


def _train_unet(config: TrainConfig, accelerator: Accelerator) -> dict[str, Any]:
    from accelerate.utils import gather_object

    from perturb.models.videocrafter.checkpoint import save_system
    from perturb.models.videocrafter.folder import check_shared
    from perturb.nano.oracle_report import oracle_report
    from perturb.training.data import training_data, validation
    from perturb.training.diffusion import Run, train_diffusion
    from perturb.training.init import initial_system
    from perturb.training.twins import write_trace

    assert config.trained is not None
    output, work, shared = resolve(config.output), resolve(config.work), _shared(config)
    check_shared(output, shared)  # not after the training
    _check_output(output, {"work": work} | ({} if config.init is None else {"init": resolve(config.init)}))
    system = initial_system(config, accelerator.device)
    data = training_data(config, system, accelerator)
    run = Run(
        trained=config.trained,
        stages=config.stages,
        batches=data.batches,
        loop=config.loop,
        seed=config.seed,
        folder=work,
        adapter=work / "adapter",
        title=f"{config.recipe} model",
        identity={"data": data.described, "init": system.provenance.get("sha256")},
        validation=validation(config, system, accelerator),
    )
    trace = train_diffusion(system, run, accelerator)
    broken = data.broken(gather_object if accelerator.num_processes > 1 else list)
    if not accelerator.is_main_process:
        return {}
    save_system(system, output, shared=shared, overwrite=output.is_dir())
    write_trace(output, trace)
    if config.trained.lora is not None:
        shutil.copytree(work / "adapter", output / "adapter")
    oracle = {"oracle": oracle_report(system, count=config.oracle)} if config.oracle else {}
    start = {"init": config.init, "init_sha256": system.provenance.get("sha256"), "provenance": system.provenance}
    seen = {"data": data.described, "broken_files": broken}
    return {**_moved(config, trace), **start, **seen, **_describe(trace.outcome), **oracle}


def _check_output(output: Path, others: Mapping[str, Path]) -> None:
    """The finished model takes the place of whatever lies there. Raise UserError for a folder with anything else."""
    if output.is_dir() and any(output.iterdir()) and not (output / "spec.json").is_file():
        raise UserError(f"output={output} is no model of ours, and would be replaced whole; give another folder")
    for name, path in others.items():
        if path.resolve().is_relative_to(output.resolve()):
            raise UserError(f"{name}={path} lies in output={output}, which would be replaced; give another folder")


def _moved(config: TrainConfig, trace: Trace) -> dict[str, Any]:
    """What was trained."""
    assert config.trained is not None
    return {
        "recipe": config.recipe,
        "trained": config.trained.describe(),
        "trains_fps_embedding": config.trained.fps_embedding,
        "parameters": trace.parameters,
    }


def _describe(outcome: Outcome) -> dict[str, Any]:
    """What every training says: the last row, the stream that was seen, where the time went."""
    return {
        "last": outcome.last,
        "sample_stream_sha256": outcome.stream,
        "seconds": {name: round(value, 1) for name, value in outcome.seconds.items()},
        "share_of_step": {name: round(value, 4) for name, value in outcome.shares.items()},
        "best_validation_step": outcome.best,
    }


def _circumstances(values: dict[str, Any], accelerator: Accelerator) -> dict[str, Any]:
    import torch

    place = torch.cuda.get_device_name() if accelerator.device.type == "cuda" else platform.machine()
    return {
        "config": values,
        "machine": f"{place}, {torch.get_num_threads()} threads",
        "processes": accelerator.num_processes,
        "torch": torch.__version__,
        "finished": time.strftime("%Y-%m-%d"),
    }


def _shared(config: TrainConfig) -> dict[str, str]:
    """The parts of the finished system that lie in a sibling folder."""
    if config.share is None:
        return {}
    files = {"vae": "vae.safetensors", "text_encoder": "text_encoder.safetensors", "tokenizer": "tokenizer.json"}
    return {component: f"{config.share}/{file}" for component, file in files.items()}


def _missing(values: Any, where: str = "") -> list[str]:
    """Dotted keys of everything that the configuration leaves to the user."""
    items = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    found = [key for name, value in items for key in _missing(value, f"{where}.{name}" if where else str(name))]
    return [where] if values == MISSING_VALUE else found


def main() -> None:
    """The command."""
    run_command(train, "train")


if __name__ == "__main__":
    main()
