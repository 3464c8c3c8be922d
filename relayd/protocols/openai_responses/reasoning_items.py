"""Reasoning items: conversion of reasoning text and its signature to an item for the client, and back.

The signature or redacted block of an endpoint is opaque, and the endpoint expects it back unchanged. relayd puts it
into `encrypted_content`, which clients return without reading it. Content that another server encrypted is dropped.
Clients that ask for `encrypted_content` get one for every reasoning item, because some clients drop items without it.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from relayd.protocols import _json
from relayd.protocols.canon import Reasoning

PREFIX = "relayd-thought-1."
_NATIVE = "responses:"


def pack_encrypted_content(signature: str | None, redacted: str | None) -> str:
    """Encode signature and redacted block as the `encrypted_content` of a reasoning item."""
    content = _json.write({"signature": signature, "redacted": redacted})
    return PREFIX + base64.urlsafe_b64encode(content).decode("ascii")


def unpack_encrypted_content(encrypted: Any) -> tuple[str | None, str | None]:
    """Decode signature and redacted block from `encrypted_content`; (None, None) if relayd did not write it."""
    if not isinstance(encrypted, str) or not encrypted.startswith(PREFIX):
        return None, None
    try:
        content = _json.an_object(_json.parse(base64.urlsafe_b64decode(encrypted[len(PREFIX) :])))
    except ValueError:
        return None, None
    return _json.a_text(content.get("signature")) or None, _json.a_text(content.get("redacted")) or None


def read_reasoning_item(item: Mapping[str, Any], at: str) -> list[Reasoning]:
    """Read the reasoning of an item: its raw content, else its summary. Without text and signature, the list is empty.

    Raises Refused.
    """
    texts = []
    for key in ("content", "summary"):
        for number, entry in enumerate(_json.optional(item, key, "a list", at) or ()):
            _json.checked(entry, "an object", f"{at}{key}[{number}]")
            texts.append(_json.required(entry, "text", "a string", f"{at}{key}[{number}]."))
        if texts:
            break
    signature, redacted = unpack_encrypted_content(item.get("encrypted_content"))
    text = "\n\n".join(texts)
    return [Reasoning(text, signature, redacted)] if text or signature or redacted else []


def pack_native_signature(item_id: str, encrypted: str) -> str:
    """Encode the encrypted content of a Responses endpoint as a signature that names its origin."""
    return f"{_NATIVE}{item_id}:{encrypted}"


def unpack_native_signature(signature: str | None) -> tuple[str, str] | None:
    """Decode item id and encrypted content from such a signature; None for any other signature."""
    if signature is None or not signature.startswith(_NATIVE):
        return None
    item_id, _, encrypted = signature[len(_NATIVE) :].partition(":")
    return (item_id, encrypted) if item_id and encrypted else None
