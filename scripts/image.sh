#!/bin/sh
# Builds the image with docker, podman or buildah, whichever is there: scripts/image.sh NAME [BUILD OPTION...]
set -eu
cd "$(dirname "$0")/.."
name=$1
shift

builder() {
  # A docker without its engine is no docker.
  if docker info >/dev/null 2>&1; then echo "docker build"
  elif podman info >/dev/null 2>&1; then echo "podman build --format docker"
  elif buildah info >/dev/null 2>&1; then echo "buildah build --format docker"
  else
    echo "image: none of docker, podman and buildah answers here; install one, or start docker's engine" >&2
    exit 1
  fi
}

build=$(builder)
version=$(sed -n 's/^    version="\(.*\)",/\1/p' setup.py)
revision=$(git rev-parse HEAD 2>/dev/null || true)
echo "image: $build, $name" >&2
# shellcheck disable=SC2086 the builder is several words
exec $build --tag "$name" --build-arg "VERSION=$version" --build-arg "REVISION=$revision" "$@" .
