"""Space and time perturbed together."""
