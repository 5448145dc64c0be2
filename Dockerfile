# docker build --target cpu -t perturb . && docker run --rm -v "$PWD/runs:/perturb/runs" perturb
# docker build --target cuda -t perturb:cuda . && docker run --rm --gpus all -v "$PWD/runs:/perturb/runs" perturb:cuda
# Either runs the main job; another one: docker run … perturb run experiment=temporal_full

FROM python:3.13-slim-bookworm AS source
# make and the C++ compiler: for packages that come as source; git: for the revision in manifests
RUN apt-get update && apt-get install --yes --no-install-recommends make git g++ && rm -rf /var/lib/apt/lists/*
WORKDIR /perturb
COPY pyproject.toml constraints.txt README.md LICENSE Makefile ./
COPY conf conf
COPY perturb perturb
COPY hydra_plugins hydra_plugins
ENV PATH=/perturb/.venv/bin:$PATH PYTHONUNBUFFERED=1
ENTRYPOINT ["perturb"]
CMD ["run", "experiment=spatial_full"]

FROM source AS cpu
RUN make venv TORCH=cpu EXTRAS=analysis

# PyTorch's wheels bring CUDA's libraries; the driver is the host's
FROM source AS cuda
RUN make venv EXTRAS=analysis
