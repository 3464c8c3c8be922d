"""The URLs of discovered hosts, and the waiting time after failures; shared by the kinds."""

from __future__ import annotations

PATH = r"/[A-Za-z0-9\-._~!$&'()*+,;=:@%/]*"
SCHEME_DOC = "How the endpoints are connected. With https set tls.server_name: the addresses have no names."
PATH_DOC = "Path of the endpoints; for an AI dialect the base path of the API."


def url_of(scheme: str, host: str, port: int, path: str | None) -> str:
    """The URL of an address; `host` is an IP address without brackets."""
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}{path or ''}"


def parts_of(scheme: str, path: str | None) -> tuple[str, str]:
    """Scheme and base path of the endpoints with these options."""
    return scheme, (path or "").rstrip("/")


def backoff_s(failures: int, least_s: float, most_s: float) -> float:
    """The waiting time after this number of consecutive failures (1, 2, ...): it doubles."""
    return float(min(most_s, least_s * 2 ** min(failures - 1, 16)))
