"""VideoCrafter 1 and 2: specs, key map, encoders, checkpoints, and the system they make together."""
