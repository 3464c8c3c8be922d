"""The filter of an endpoint's list of models; tests/functional/test_model_lists.py has all forms of lists."""

from __future__ import annotations

import json

from relayd.proxy.filters.permitted_models import MAX_HELD_BYTES, PermittedModels
from relayd.wire.response import ResponseHead

DOCUMENT = json.dumps({"data": [{"id": f"{'m' if number % 3 else 'hidden'}-{number}", "x": "y" * 99} for number in range(2000)]}).encode()


def head() -> ResponseHead:
    found = ResponseHead(200, b"OK")
    found.keep = [b'ETag: "a"\r\n', b"X-Own: 1\r\n"]
    return found


def ended(filter_: PermittedModels) -> tuple[bytes, int]:
    """The output, and the number of steps."""
    out, steps = filter_.finish(), 0
    while filter_.unfinished:
        assert not out
        filter_.process(b"")
        steps += 1
        out = b"" if filter_.unfinished else filter_.finish()
    return out, steps


def test_a_list_is_held_and_read_in_steps() -> None:
    filter_ = PermittedModels(lambda name: name.startswith("m-"), head())
    for start in range(0, len(DOCUMENT), 1000):
        assert filter_.process(DOCUMENT[start : start + 1000]) == b""
    out, steps = ended(filter_)
    assert steps > 3 and filter_.failure is None
    assert json.loads(out) == {"data": [one for one in json.loads(DOCUMENT)["data"] if one["id"].startswith("m-")]}
    shown = filter_.head(head())
    assert (shown.length, shown.keep) == (len(out), [b"X-Own: 1\r\n"])


def test_no_more_than_the_bound_is_held() -> None:
    filter_ = PermittedModels(lambda name: True, head())
    for _ in range(MAX_HELD_BYTES // 65536 + 2):
        filter_.process(b"x" * 65536)
    assert filter_.failure is not None and "larger than 4 MiB" in filter_.failure.message and not filter_._held
