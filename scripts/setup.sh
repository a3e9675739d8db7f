#!/bin/sh
# Sets up .venv; called by `make setup`. Finds a Python 3.11 to 3.13 and hands over to scripts/bootstrap.py.
set -eu
cd "$(dirname "$0")/.."

wanted=$(cat requirements.lock requirements-dev.lock setup.py scripts/setup.sh scripts/bootstrap.py | cksum)
if [ "$(cat .venv/.ready 2>/dev/null || true)" = "$wanted" ]; then
  exit 0
fi

for candidate in "${PYTHON:-}" python3.12 python3.11 python3.13 python3 /usr/bin/python3; do
  [ -n "$candidate" ] || continue
  if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
    "$candidate" -B scripts/bootstrap.py
    echo "$wanted" > .venv/.ready
    exit 0
  fi
done
echo "setup: no Python 3.11, 3.12 or 3.13 found. Install one, or name it: make setup PYTHON=/path/to/python3.11" >&2
exit 1
