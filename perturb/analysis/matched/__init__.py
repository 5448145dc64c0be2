"""Motion kept where two perturbations came equally far."""
