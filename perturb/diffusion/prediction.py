"""What a network predicts, and the clean latent and the noise that follow from it."""

from typing import Literal

from torch import Tensor

Prediction = Literal["epsilon", "v"]


def clean_and_noise(
    output: Tensor, x: Tensor, a: float | Tensor, scale: float | Tensor, prediction: Prediction
) -> tuple[Tensor, Tensor]:
    """x̂_0 and ε̂ of x = √a s x_0 + √(1 − a) ε, from what the network predicts:

        ε:   x̂_0 = (x − √(1 − a) ε̂)/(√a s)
        v:   x̂_0 = (√a x − √(1 − a) v̂)/s,   ε̂ = √a v̂ + √(1 − a) x       with v = √a ε − √(1 − a) s x_0

    a = ᾱ_t and the latent scale s are numbers, or tensors that broadcast to x. Source of v: Salimans & Ho 2022 (arXiv
    2202.00512), appendix D.
    """
    signal, noise = a**0.5, (1 - a) ** 0.5
    if prediction == "v":
        return (signal * x - noise * output) / scale, signal * output + noise * x
    return (x - noise * output) / (signal * scale), output
