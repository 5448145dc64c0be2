"""Any video pipeline of diffusers as a `VideoModel`: it samples, and is fitted with the objective of its scheduler.

groups.py      class → group, for networks that keep space and time apart
objective.py   what a network is fitted to, from its scheduler's configuration
calls.py       what a pipeline is asked for, and what it tells its network
latents.py     to and from the latents of any autoencoder
model.py       the model; sampler.py the pipeline as a sampler; load.py from a local folder
"""
