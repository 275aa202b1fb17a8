# Builds three images (docs/containers.md):
#   docker build -t ddpm_jax:cpu .
#   docker build -t ddpm_jax:cuda --build-arg JAX="jax[cuda13]" .
#   docker build -t ddpm_jax:tpu --build-arg JAX="jax[tpu]" .

FROM python:3.12.12-slim-bookworm AS build
ARG JAX=jax
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
WORKDIR /source
RUN python -m venv /opt/venv
# Dependencies first: a change to the code then reuses this layer instead of installing them again.
COPY requirements.lock requirements-cloud.txt ./
RUN /opt/venv/bin/pip install -r requirements.lock -r requirements-cloud.txt "$JAX"
COPY pyproject.toml README.md LICENSE requirements*.txt ./
COPY configs configs
COPY ddpm_jax ddpm_jax
RUN /opt/venv/bin/pip install --no-deps . && /opt/venv/bin/ddpm-jax --help

FROM python:3.12.12-slim-bookworm
RUN useradd --create-home --uid 1000 ddpm && install -d -o ddpm /runs /cache
COPY --from=build /opt/venv /opt/venv
# NVIDIA's container runtime reads the last two variables; other runtimes ignore them.
ENV PATH=/opt/venv/bin:$PATH XDG_CACHE_HOME=/cache PYTHONUNBUFFERED=1 \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 1000
WORKDIR /runs
VOLUME ["/runs", "/cache"]
# On SIGTERM, which `docker stop` sends, training saves and stops; allow time for that: docker stop --time=60.
STOPSIGNAL SIGTERM
ENTRYPOINT ["ddpm-jax"]
CMD ["--help"]
