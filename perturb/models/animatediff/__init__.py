"""AnimateDiff: Stable Diffusion 1.5 with motion modules; the public partially trained model."""
