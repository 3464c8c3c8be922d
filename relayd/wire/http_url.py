"""URLs of documents and services in the configuration: http or https, a host, and a target to be sent as it is."""

from __future__ import annotations

from urllib.parse import urlsplit


def url_fault(url: str) -> str:
    """Why a text is no URL of a document, or empty. The message contains no part of it."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "is not a URL"
    if parts.scheme not in ("http", "https") or not url.startswith(f"{parts.scheme}://") or not host:
        return "must begin with http:// or https:// and a host"
    if "@" in parts.netloc or "#" in url:
        return "contains user information or a fragment"
    if any(not "!" <= sign <= "~" or sign in '\\"<>^`{|}' for sign in url):
        return "contains a character that must be percent-encoded"
    return ""


def is_local(url: str) -> bool:
    """True if the host of a URL is this machine."""
    return urlsplit(url).hostname in ("127.0.0.1", "::1", "localhost")
