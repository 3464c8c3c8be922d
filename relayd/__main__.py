"""`python -m relayd`: the same as the relayd command."""

from __future__ import annotations

import sys

from relayd.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
