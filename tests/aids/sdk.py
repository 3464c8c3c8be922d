"""SDKs of AI APIs, which one test environment has and another has not."""

from __future__ import annotations

import importlib
from typing import Any


def http_of(sdk: str) -> Any:
    """The HTTP library that this version of an SDK stands on: newer ones have httpx2 where others have httpx."""
    base = importlib.import_module(f"{sdk}._base_client")
    return getattr(base, "httpx2", None) or base.httpx
