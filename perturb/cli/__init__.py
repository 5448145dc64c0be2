"""What the commands share: hydra in front, configuration, identity, provenance and plan."""
