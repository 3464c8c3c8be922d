"""The entry point of the process: `python -m relayd` and the relayd command."""

from __future__ import annotations

import os
import sys
import threading

from relayd.cli.main import main


def leave(code: int) -> None:
    """End the process. Raises SystemExit.

    A thread may still be inside a C library (a name lookup, a handshake with an authority). It would come back into an
    interpreter that is being finalised, and end there with a segmentation fault; so then the interpreter is not
    finalised.
    """
    if threading.active_count() > 1:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):
                pass
        os._exit(code)
    sys.exit(code)


def entry() -> None:
    """Run the command of sys.argv and end the process with its code."""
    leave(main())


if __name__ == "__main__":
    entry()
