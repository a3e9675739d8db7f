"""A real browser: the host's Chromium, or Debian's package, unpacked into .runtime and not installed."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome import options, service

from scripts import bootstrap

PACKAGES = ["chromium", "chromium-driver", "fonts-dejavu-core", "fonts-noto-color-emoji"]
QUIET = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
]


@contextlib.contextmanager
def chromium(width: int, height: int, dark: bool = False) -> Iterator[webdriver.Chrome]:
    """Start a browser that can reach nothing but files.

    Args:
      width: of the page, in pixels.
      height: likewise.
      dark: whether its user likes it so.
    """
    root = _unpacked()
    found = options.Options()
    found.binary_location = str(root / "usr/lib/chromium/chromium")
    found.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with tempfile.TemporaryDirectory(prefix="chromium-") as profile:
        for argument in (*QUIET, f"--user-data-dir={profile}", "--host-resolver-rules=MAP * ~NOTFOUND"):
            found.add_argument(argument)
        environment = dict(os.environ)
        if root != Path("/"):
            folders = [
                *root.glob("usr/lib/x86_64-linux-gnu"),
                *root.glob("lib/x86_64-linux-gnu"),
                *root.glob("usr/lib/x86_64-linux-gnu/*/"),
            ]
            environment["LD_LIBRARY_PATH"] = os.pathsep.join(map(str, folders))
            config = Path(profile, "fonts.conf")
            fonts = f"<dir>/usr/share/fonts</dir><dir>{root}/usr/share/fonts</dir><cachedir>{profile}/fonts</cachedir>"
            config.write_text(f"<fontconfig>{fonts}</fontconfig>")
            environment["FONTCONFIG_FILE"] = str(config)
        driver = webdriver.Chrome(found, service.Service(str(root / "usr/bin/chromedriver"), env=environment))
        try:
            metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
            scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
            driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
            yield driver
        finally:
            driver.quit()


def _unpacked() -> Path:
    if Path("/usr/lib/chromium/chromium").exists() and shutil.which("chromedriver"):
        return Path("/")
    root = bootstrap.RUNTIME / "chromium"
    if not (root / "usr/bin/chromedriver").exists():
        with tempfile.TemporaryDirectory(dir=bootstrap.RUNTIME) as scratch:
            lacking = "chromium and chromedriver are not on this host"
            bootstrap.unpack_debian(PACKAGES, Path(scratch), lacking, with_dependencies=True)
            shutil.rmtree(root, ignore_errors=True)
            shutil.move(scratch, root)
            Path(scratch).mkdir()
    return root
