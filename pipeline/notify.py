"""Tells the address in `notify.url` how a run ended; whether that works changes nothing for the run."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from urllib.parse import urlsplit

import requests

from configs import schema
from pipeline.ending import Ending

URL_VARIABLE = "FINETUNE_NOTIFY_URL"
"""Environment variable that goes before `notify.url`, for addresses that are secret."""

_TRIES = 2
_log = logging.getLogger("finetune.pipeline.notify")


def post(config: schema.Notify, ending: Ending) -> bool:
    """Post the end of a run as JSON: the fields of `Ending`, and `text`, a line.

    Args:
      config: the section `notify`.
      ending: of the run.

    Returns:
      Whether it was told; False also where nobody wants to know. Never raises.
    """
    url = (os.environ.get(URL_VARIABLE) or config.url or "").strip()
    if not url:
        return False
    problem = ""
    # A number that is none becomes null.
    content = json.loads(ending.model_dump_json()) | {"text": _text(ending)}
    for _ in range(_TRIES):
        try:
            # What the answer says does not matter, and a redirect would drop what was posted.
            with requests.post(
                url, json=content, timeout=config.timeout_seconds, allow_redirects=False, stream=True
            ) as answer:
                code = answer.status_code
        except (requests.RequestException, ValueError) as error:
            # The error's text has the address in it, and that may be a secret.
            problem = type(error).__name__
            continue
        if code in range(200, 300):
            return True
        problem = f"HTTP {code}"
    _log.warning("how the run ended could not be posted to %s: %s", _shown(url), problem)
    return False


def look(config: schema.Notify, run_id: str, command: str) -> str:
    """Return where to look for more: the configuration's link, or a command.

    Args:
      config: the section `notify`.
      run_id: of the run.
      command: that shows the run.
    """
    return config.link.replace("{run}", run_id) if config.link else command


def _text(ending: Ending) -> str:
    return f"{ending.text}; see {ending.look}" if ending.look else ending.text


def _shown(url: str) -> str:
    """An address without what may be secret in it."""
    with contextlib.suppress(ValueError):
        parts = urlsplit(url)
        if parts.scheme and parts.hostname and "@" not in url:
            return f"{parts.scheme}://{parts.hostname}"
    return "the address in notify.url"
