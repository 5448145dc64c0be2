"""Perturb a video diffusion model in space or time, and measure what happens to its motion."""
