"""Reads the lists of endpoints that a discovery finds, and what a discovery is given that only checks its options."""

from __future__ import annotations

from relayd.config.load import load_endpoints
from relayd.errors import ConfigError
from relayd.plan.specs import address_of
from relayd.upstream.discovered import Address, ApiClient, LookupFault, Tools


def parse_endpoints(text: bytes, path: str) -> tuple[Address, ...]:
    """The addresses in the text of a file. Raises LookupFault with the first error, its file and line."""
    try:
        return tuple(map(address_of, load_endpoints(text, path)))
    except ConfigError as error:
        first = error.findings[0]
        further = f" (and {len(error.findings) - 1} more)" if len(error.findings) > 1 else ""
        raise LookupFault(f"{first}{further}") from error


def _no_client(url: str) -> ApiClient:
    raise LookupFault("a check connects to nothing")


CHECKED = Tools(parse_endpoints, _no_client)  # for a discovery that only returns its cautions
