"""A real MariaDB server for ML Metadata: the host's, or Debian's package, unpacked into .runtime and not installed."""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

from scripts import bootstrap

PACKAGES = ["mariadb-server-core", "mariadb-client-core", "mariadb-common", "liburing2", "libaio1"]
SUITE = "bookworm"
PASSWORD = "n@t/s:e#c?r%e t&+"
"""With what means something in a URL."""


@contextlib.contextmanager
def mariadb() -> Iterator[str]:
    """Start a server on a free port of this machine, with an empty database; yields its `mysql://` URL."""
    root = _unpacked()
    environment = dict(os.environ)
    if root != Path("/"):
        environment["LD_LIBRARY_PATH"] = os.pathsep.join(str(path) for path in root.glob("**/lib/x86_64-linux-gnu"))
    with tempfile.TemporaryDirectory(prefix="mariadb-") as folder, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        data, init = Path(folder, "data"), Path(folder, "init.sql")
        init.write_text(
            "CREATE DATABASE metadb;\n"
            f"CREATE USER 'tfx'@'127.0.0.1' IDENTIFIED BY '{PASSWORD}';\n"
            "GRANT ALL ON metadb.* TO 'tfx'@'127.0.0.1';\n"
        )
        common = ["--no-defaults", f"--datadir={data}", f"--user={_user()}"]
        install = [root / "usr/bin/mariadb-install-db", *common, f"--basedir={root / 'usr'}", "--skip-test-db"]
        subprocess.run(install, env=environment, check=True, capture_output=True)
        serve = [root / "usr/sbin/mariadbd", *common, f"--socket={folder}/socket", f"--port={port}"]
        serve += ["--bind-address=127.0.0.1", f"--init-file={init}", f"--lc-messages-dir={root / 'usr/share/mysql'}"]
        with (
            Path(folder, "log").open("w") as log,
            subprocess.Popen(serve, env=environment, stderr=log, stdout=log) as server,
        ):
            try:
                _wait(port, server, Path(folder, "log"))
                yield f"mysql://tfx:{urllib.parse.quote(PASSWORD, safe='')}@127.0.0.1:{port}/metadb"
            finally:
                server.terminate()
                server.wait(60)


def _user() -> str:
    return "root" if os.geteuid() == 0 else os.environ.get("USER", "nobody")


def _unpacked() -> Path:
    if shutil.which("mariadbd"):
        return Path("/")
    root = bootstrap.RUNTIME / "mariadb"
    if not (root / "usr/sbin/mariadbd").exists():
        with tempfile.TemporaryDirectory(dir=bootstrap.RUNTIME) as scratch:
            bootstrap.unpack_debian(PACKAGES, Path(scratch), "mariadbd is not on this host's PATH", SUITE)
            shutil.rmtree(root, ignore_errors=True)
            shutil.move(scratch, root)
            Path(scratch).mkdir()
    return root


def _wait(port: int, server: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + 60
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        assert server.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)
