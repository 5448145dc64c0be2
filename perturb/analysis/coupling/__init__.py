"""Training × perturbed group: the comparison of twins."""
