"""Flink and Beam's job server for it, from the package registries, kept in a folder where each is whole or not at all."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CACHE = "FINETUNE_FLINK_CACHE"
"""The environment variable that names the folder; without it, `.runtime/flink`."""

_FLINK = "apache-flink-libraries==1.16.3"
_JAVA = "17"


class MissingError(RuntimeError):
    """Something that has to be installed first; the message says what."""


class Binaries(NamedTuple):
    """What a cluster is made of.

    Attributes:
      java: the program.
      flink: the folder with Flink's jars.
      job_server: Beam's jar.
    """

    java: str
    flink: Path
    job_server: Path


def cache() -> Path:
    """Return the folder where all is kept."""
    return Path(os.environ.get(CACHE) or ROOT / ".runtime" / "flink")


def missing() -> str:
    """Return what has to be installed before `fetch` can succeed, in words; empty if nothing."""
    try:
        _java()
        if not _job_server().exists():
            _maven()
    except MissingError as error:
        return str(error)
    return ""


def fetch() -> Binaries:
    """Return what a cluster is made of; fetch what isn't there yet, 330 MB.

    Raises:
      MissingError: Java or Maven isn't there.
      subprocess.CalledProcessError: a registry doesn't have it.
    """
    java = _java()
    _keep(_job_server().parent, _build_job_server)
    flink = cache() / _FLINK.replace("==", "-")
    _keep(flink, _download_flink)
    return Binaries(java, flink, _job_server())


def _java() -> str:
    home = os.environ.get("JAVA_HOME")
    java = shutil.which(Path(home, "bin", "java") if home else "java")
    if java is None:
        raise MissingError(f"Java {_JAVA} isn't there: install it, and name it in JAVA_HOME if it isn't on the PATH")
    said = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr
    if not (found := re.search(r'version "(\d+)', said)) or found[1] != _JAVA:
        raise MissingError(f"Java {_JAVA} is needed, {java} is {found[1] if found else 'none'}: name it in JAVA_HOME")
    return java


def _maven() -> str:
    maven = shutil.which("mvn")
    if maven is None:
        raise MissingError("Maven isn't there, which builds Beam's job server: install it, and have mvn on the PATH")
    return maven


def _job_server() -> Path:
    """Where the jar is, under the name that the pom gives it; another pom is another jar."""
    pom = (HERE / "pom.xml").read_text()
    name, version = re.findall(r"<artifactId>(.+?)</artifactId>\s*<version>(.+?)</version>", pom)[0]
    return cache() / f"job-server-{hashlib.sha256(pom.encode()).hexdigest()[:8]}" / f"{name}-{version}.jar"


def _keep(target: Path, make: Callable[[Path, Path], None]) -> None:
    """Have a folder made aside, in a scratch folder, and give it its name when it is whole."""
    if target.exists():
        return
    print(f"fetched once, and kept: {target}", file=sys.stderr, flush=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=target.parent, prefix=".") as scratch:
        whole = Path(scratch, "whole")
        whole.mkdir()
        make(Path(scratch), whole)
        try:
            whole.rename(target)
        except OSError:  # somebody else was faster
            if not target.exists():
                raise


def _build_job_server(scratch: Path, whole: Path) -> None:
    shutil.copy(HERE / "pom.xml", scratch)
    # Maven's JVM would leave a folder in /tmp.
    options = {**os.environ, "MAVEN_OPTS": f"-XX:-UsePerfData -Djava.io.tmpdir={scratch}"}
    subprocess.run(
        [_maven(), "-B", "-q", "-Dstyle.color=never", "package"], cwd=scratch, env=options, check=True, stdout=sys.stderr
    )
    shutil.move(scratch / "target" / _job_server().name, whole)


def _download_flink(scratch: Path, whole: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", _FLINK]
    subprocess.run([*command, "--dest", scratch], check=True, stdout=sys.stderr)
    (source,) = scratch.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        for member in archive:
            if re.fullmatch(r"[^/]+/deps/lib/[^/]+\.jar", member.name):
                member.name = Path(member.name).name
                archive.extract(member, whole, filter="data")
