"""Where in the network a perturbation is, and where it acts."""
