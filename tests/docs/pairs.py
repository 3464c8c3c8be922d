"""What becomes of each sample between each client's dialect and each endpoint's: found out by translating it.

carried: it is in what the other side gets. reworded: it is, said in other words, which the drops tell. by option: it is
where the upstream's `dialect:` says so. dropped: it is not, and the drops of one of the two dialects say so. refused:
the client gets 400 with the field's name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

from relayd.protocols import _json, registry
from relayd.protocols.dialect import Dialect, EncodedRequest, Options, Refused, RequestContext
from tests.aids.memories import Forgetful
from tests.docs.samples import ANSWERS, PLAIN, REQUESTS, Answered, Members, Sample

CARRIED, REWORDED, BY_OPTION, DROPPED, REFUSED = FATES = ("carried", "reworded", "by option", "dropped", "refused")
OPENED = Options(developer_role=True, reasoning_history="reasoning_content", metadata=True, verbosity=True)
NEWEST = {"gemini": "gemini-3-flash"}  # the model that an endpoint is asked for, where its name decides


@dataclass(frozen=True, slots=True)
class Found:
    """What became of a sample; `param` is the field that a refusal names, `documented` the drop that names a loss."""

    fate: str
    param: str | None = None
    documented: str = ""


def fronts() -> tuple[Dialect, ...]:
    """Those that clients speak, as far as the samples have their words."""
    return tuple(one for one in registry.dialects() if one.has_clients and one.name in PLAIN)


def backs() -> tuple[Dialect, ...]:
    """Those that endpoints speak."""
    return tuple(one for one in registry.dialects() if one.has_endpoints)


def ask_in(front: Dialect) -> RequestContext:
    """A POST on the path of a dialect."""
    return RequestContext("POST", f"/v1{front.paths[0]}", "", {}, "req-1", Forgetful(), seal_key=b"only for samples")


def members_of(front: Dialect, asked: Members) -> dict[str, Any]:
    """The body of a request in a client's words."""
    return {**PLAIN[front.name], **asked}


def send(front: Dialect, back: Dialect, asked: Members, options: Options) -> EncodedRequest:
    """What the endpoint would get. Raises Refused."""
    return send_body(front, back, _json.write(members_of(front, asked)), options)


def send_body(front: Dialect, back: Dialect, body: bytes, options: Options) -> EncodedRequest:
    """What the endpoint would get of a client's body. Raises Refused."""
    assert front.read_request is not None and back.write_request is not None
    request = front.read_request(body, ask_in(front))
    return back.write_request(replace(request, model=NEWEST.get(back.name, "m")), options, Forgetful())


def words_of(front: Dialect, sample: Sample) -> Members | None:
    """The sample in this client's words; the plain chat front speaks a part of Chat."""
    name = "openai_chat" if front.name == "simple_chat" else front.name
    return sample.asked.get(name)


def found(front: Dialect, back: Dialect, sample: Sample) -> Found:
    """What becomes of a sample that this client's dialect has words for."""
    asked = words_of(front, sample)
    assert asked is not None
    without = sample.without.get("openai_chat" if front.name == "simple_chat" else front.name, {})
    try:
        for options, fate in ((Options(), CARRIED), (OPENED, BY_OPTION)):
            sent = send(front, back, asked, options)
            held = sample.mark is None or sample.mark in sent.path or sample.mark in sent.body.decode("utf-8")
            if (held or sample.in_words) and sent != send(front, back, without, options):
                return Found(fate) if held else Found(REWORDED, documented=documented(sample.word, front, back))
    except Refused as refused:
        return Found(REFUSED, refused.param)
    return Found(DROPPED, documented=documented(sample.word, front, back))


def documented(word: str, *sides: Dialect) -> str:
    """The sentence by which one of these dialects names what it drops; "" if none does."""
    return next((text for side in sides for text in side.drops if re.search(word, text)), "")


def shown(front: Dialect, answered: Answered, stream: bool) -> Found:
    """Whether a client of this dialect gets to know it."""
    with_it, without = _rendered(front, answered.events, stream), _rendered(front, answered.without, stream)
    if with_it != without and (answered.mark is None or answered.mark in with_it):
        return Found(CARRIED)
    return Found(DROPPED, documented=documented(answered.word, front))


_ASKED: dict[str, Members] = {
    "openai_chat": {"stream_options": {"include_usage": True}},
    "openai_responses": {"include": ["message.output_text.logprobs", "reasoning.encrypted_content"]},
}
_MINTED = re.compile(r"((?:resp|msg|fc|rs|chat|chatcmpl|toolu|call)[-_])[0-9a-f]{16,}")
_PROOF = re.compile(r'"created(?:_at)?":[0-9]+|"completed_at":[0-9]+')


def _rendered(front: Dialect, events: tuple[Any, ...], stream: bool) -> str:
    assert front.read_request is not None and front.renderer is not None
    ask = ask_in(front)
    members = members_of(front, {**_ASKED.get(front.name, {}), "stream": stream})
    renderer = front.renderer(front.read_request(_json.write(members), ask), ask)
    sent = renderer.render(list(events)) + renderer.response().body
    # Escapes in a call's arguments are of JSON inside of JSON.
    return _PROOF.sub("", _MINTED.sub(r"\1", sent.decode("utf-8")))


def every_request() -> dict[tuple[str, str], list[tuple[Sample, Found]]]:
    """By client's and endpoint's dialect, what becomes of every sample that the client has words for."""
    return {
        (front.name, back.name): [
            (sample, found(front, back, sample)) for sample in REQUESTS if words_of(front, sample) is not None
        ]
        for front in fronts() for back in backs()
    }  # fmt: skip


def every_answer() -> dict[str, list[tuple[Answered, Found]]]:
    """By client's dialect, what becomes of what an answer can hold."""
    return {front.name: [(one, shown(front, one, False)) for one in ANSWERS] for front in fronts()}
