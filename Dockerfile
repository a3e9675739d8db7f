# The whole environment in an image: make image, then docker run --rm finetune --help
#
# Two stages: compilers, caches and what no node imports stay in the first. BASE_IMAGE takes any Debian 13 or newer.
ARG BASE_IMAGE=debian:trixie-slim

FROM ${BASE_IMAGE} AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates g++ python3 python3-dev python3-pip \
    && rm -rf /var/lib/apt/lists/*
# Where TLS is inspected, name the bundle to trust; plain ARGs stay out of the image.
ARG PIP_CERT
ARG SSL_CERT_FILE
RUN pip install --break-system-packages --no-cache-dir uv
WORKDIR /app
COPY requirements.lock scripts/slim.py ./
# CUDA=1 adds the libraries that TensorFlow needs on GPUs, some 3 GB.
ARG CUDA
RUN uv venv /app/.venv --python /usr/bin/python3 \
    && uv pip sync --python /app/.venv/bin/python --no-cache --require-hashes requirements.lock \
    && if [ -n "${CUDA}" ]; then \
         uv pip install --python /app/.venv/bin/python --no-cache --constraint requirements.lock 'tensorflow[and-cuda]'; \
       fi \
    && python3 slim.py /app/.venv \
    && /app/.venv/bin/python -m compileall -q -j 0 /app/.venv/lib
# .dockerignore lets in what is installed, and nothing else.
COPY . .
RUN uv pip install --python /app/.venv/bin/python --no-cache --no-deps -C editable_mode=compat --editable . \
    && rm -rf requirements.lock scripts *.egg-info/SOURCES.txt \
    && /app/.venv/bin/python -m compileall -q .

FROM ${BASE_IMAGE}
ARG VERSION=0.1.0
ARG REVISION=""
LABEL org.opencontainers.image.title="finetune" \
      org.opencontainers.image.description="From a folder of labelled pictures to a gated, served classifier: a TFX pipeline" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates python3 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt \
    && useradd --create-home --uid 1000 finetune
COPY --from=build /app /app
# What publishes a model writes down which code trained it.
ENV PATH="/app/.venv/bin:${PATH}" \
    FINETUNE_REVISION="${REVISION}"
# A number, so that Kubernetes can see that it is not root.
USER 1000:1000
WORKDIR /home/finetune
ENTRYPOINT ["finetune"]
