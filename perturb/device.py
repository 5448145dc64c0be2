"""The device that is computed on."""

from perturb.errors import UserError


def pick_device(name: str) -> str:
    """``auto`` decided: a GPU where there is one, else the CPU. UserError for a GPU that is not there."""
    import torch  # takes seconds: plain mistakes do not wait for it

    there = torch.cuda.is_available()
    if name == "auto":
        return "cuda" if there else "cpu"
    if name.startswith("cuda") and not there:
        raise UserError(f"device={name}, but torch sees no GPU; allowed here: cpu, auto")
    return name
