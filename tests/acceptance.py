"""Goes through the steps of an acceptance against a real thing, and says of each how it ended."""

import time
import traceback
from collections.abc import Callable, Collection, Iterable

Step = tuple[str, Callable[[], None], bool]
"""Name, what it does, and whether nothing can follow where it fails."""


def go_through(steps: Iterable[Step], only: Collection[str]) -> tuple[int, int]:
    """Go through steps, also after one that failed.

    Args:
      steps: in their order.
      only: names of those that are wanted, besides what the others need; empty for all.

    Returns:
      How many passed, and how many failed.
    """
    passed = failed = 0
    for name, step, needed in steps:
        if only and not needed and name not in only:
            continue
        started = time.monotonic()
        print(f"\n--- {name}", flush=True)
        try:
            step()
        except Exception as error:  # a step that fails must not keep the others from running
            traceback.print_exc()
            print(f"FAIL  {name}: {' '.join(str(error).split())[:500]} ({time.monotonic() - started:.0f} s)", flush=True)
            failed += 1
            if needed:
                break
        else:
            print(f"PASS  {name} ({time.monotonic() - started:.0f} s)", flush=True)
            passed += 1
    return passed, failed
