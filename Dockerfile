# The whole environment in an image: docker build --tag finetune . && docker run --rm finetune --help
#
# Two stages: the compiler that one dependency needs stays in the first. BASE_IMAGE takes any Debian 13 or newer.
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
COPY requirements.lock ./
RUN uv venv /app/.venv --python /usr/bin/python3 \
    && uv pip sync --python /app/.venv/bin/python --no-cache --require-hashes --compile-bytecode requirements.lock
# .dockerignore lets in what is installed, and nothing else.
COPY . .
RUN uv pip install --python /app/.venv/bin/python --no-cache --no-deps -C editable_mode=compat --editable .

FROM ${BASE_IMAGE}
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates python3 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 finetune
COPY --from=build /app /app
USER finetune
WORKDIR /home/finetune
ENTRYPOINT ["/app/.venv/bin/finetune"]
