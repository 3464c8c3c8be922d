"""The compiler of plans."""

from __future__ import annotations

import dataclasses
import time

import pytest

from relayd.access.authenticators.header import HeaderKey
from relayd.access.client_request import ClientRequest
from relayd.config.access import Consumer
from relayd.config.limits import Limits
from relayd.config.listener import Listener
from relayd.config.model import AddedHeaders, Config
from relayd.config.route import Cors, HeaderEdits, Match, Redirect, Respond, Route, RouteTimeouts
from relayd.config.upstream import Auth, Endpoint, Upstream
from relayd.errors import ConfigError
from relayd.limits.gates import Gates
from relayd.plan.compile import compile_plan
from relayd.plan.plan import Plan, PlannedRoute
from relayd.schema import Duration, Secret
from relayd.upstream.spec import EndpointSpec, UpstreamSpec
from relayd.wire.http1 import parse_head
from relayd.wire.regex_proof import fault_of_regex
from tests.aids.sections import section

KEY = Secret("sk-1", "env KEY")
WEB = Upstream(endpoints=(Endpoint(url="http://127.0.0.1:9001"),))
LLM = Upstream(protocol="openai_chat", endpoints=(Endpoint(url="https://llm.example/v1"),), auth=Auth(bearer=(KEY,)))
DEMO = UpstreamSpec("demo", (EndpointSpec("http://localhost", "", "demo", unix="/run/demo.sock"),))


def config(*routes: Route, **sections: object) -> Config:
    sections.setdefault("upstreams", {"web": WEB, "llm": LLM})
    return Config(listeners={"public": Listener(address="127.0.0.1:8282")}, routes=routes, **sections)  # type: ignore[arg-type]


def route(name: str = "r", **words: object) -> Route:
    words.setdefault("upstream", "web")
    return Route(name=name, **words)  # type: ignore[arg-type]


def only(made: Route, **sections: object) -> PlannedRoute:
    return compile_plan(config(made, **sections), 1, builtin={"demo": DEMO}).routes[0]


def test_a_plan_finds_its_routes_in_order() -> None:
    plan = compile_plan(config(
        route("post", match=Match(prefix="/v1/", method=("POST",))), route("rest", match=Match(prefix="/")),
    ), 7)
    head = parse_head(b"GET /v1/x HTTP/1.1\r\nHost: a\r\n\r\n")
    found = plan.table.match(head)
    assert plan.generation == 7 and found is plan.routes[1] and found.upstream is plan.upstreams["web"]


@pytest.mark.parametrize(("words", "action"), [
    ({"upstream": "web"}, "proxy"), ({"upstream": "admin"}, "admin"), ({"upstream": "demo"}, "proxy"),
    ({"upstream": "by_model"}, "proxy"),
    ({"upstream": None, "redirect": Redirect(location="/x")}, "redirect"),
    ({"upstream": None, "respond": Respond(status=204)}, "respond"),
    ({"upstream": "llm", "protocol": "openai_chat"}, "proxy"), ({"upstream": "llm", "protocol": "plain"}, "proxy"),
    ({"upstream": "web", "protocol": "openai_chat"}, "proxy"),
    ({"upstream": "llm", "protocol": "openai_responses"}, "proxy"),
])
def test_a_route_says_what_becomes_of_its_requests(words: dict[str, object], action: str) -> None:
    made = only(route("r", **words))
    assert made.action == action
    assert (made.upstream is not None) == (action == "proxy" and words["upstream"] != "by_model")


@pytest.mark.parametrize(("words", "shape"), [
    ({"upstream": "web"}, "problem"), ({"upstream": "llm"}, "openai"), ({"upstream": "demo"}, "openai"),
    ({"upstream": "by_model"}, "openai"), ({"upstream": "admin"}, "problem"),
    ({"upstream": "web", "protocol": "openai_chat"}, "openai"), ({"upstream": "llm", "protocol": "plain"}, "problem"),
    ({"upstream": "llm", "errors": "text"}, "text"),
])
def test_errors_take_the_shape_of_the_dialect(words: dict[str, object], shape: str) -> None:
    assert only(route("r", **words)).error_shape == shape


def test_a_routes_timeouts_replace_the_upstreams() -> None:
    made = only(route(timeouts=RouteTimeouts(first_byte=Duration(9), idle=Duration(0))))
    assert (made.timeouts.first_byte_s, made.timeouts.idle_s, made.timeouts.connect_s) == (9.0, 0.0, 5.0)


def test_a_built_in_upstream_is_made_only_where_a_route_names_it() -> None:
    assert "demo" in compile_plan(config(route(upstream="demo")), 1, builtin={"demo": DEMO}).upstreams
    assert "demo" not in compile_plan(config(route()), 1, builtin={"demo": DEMO}).upstreams
    assert compile_plan(config(route(upstream="demo")), 1).routes[0].action == "unavailable"


def test_an_unchanged_upstream_is_shared_with_the_plan_before() -> None:
    before = compile_plan(config(route()), 1)
    after = compile_plan(config(route("other")), 2, before)
    assert after.upstreams["web"] is before.upstreams["web"]
    changed = Upstream(endpoints=(Endpoint(url="http://127.0.0.1:9001"),), http="2")
    third = compile_plan(config(route(), upstreams={"web": changed}), 3, after)
    assert third.upstreams["web"] is not before.upstreams["web"]


def test_paths_are_rewritten_and_always_begin_with_a_slash() -> None:
    assert only(route(match=Match(prefix="/api"), strip_prefix="/api")).rewritten(b"/api") == b"/"
    assert only(route(match=Match(prefix="/api"), strip_prefix="/api")).rewritten(b"/api?") == b"/?"
    assert only(route(match=Match(prefix="/v1/"), upstream="llm")).rewritten(b"/v1/models") == b"/models"
    assert only(route(match=Match(regex="/u/(.*)"), rewrite=r"/\1")).rewritten(b"/u//x") == b"/x"
    assert only(route()).rewritten(b"/as/it%2Fis") == b"/as/it%2Fis"


def test_the_demonstration_is_asked_for_the_path_as_it_came() -> None:
    assert only(route(upstream="demo", match=Match(prefix="/v1/"))).rewritten(b"/v1/models") == b"/v1/models"


def test_consumers_are_known_by_bearer_and_by_header() -> None:
    consumers = {"team": section(Consumer, bearer=KEY, header=HeaderKey(name="X-Team", value=KEY))}
    plan = compile_plan(config(route(allow=("team",)), consumers=consumers), 1)
    assert plan.routes[0].allow == frozenset({"team"}) and plan.key_fields == {b"x-team"}
    identity = plan.consumers.identify(ClientRequest(parse_head(b"GET / HTTP/1.1\r\nHost: a\r\nX-Team: sk-1\r\n\r\n")))
    assert identity is not None and identity.name == "team"
    assert only(route()).allow is None


def test_header_names_can_be_renamed_and_switched_off() -> None:
    usual = compile_plan(config(route()), 1).header_names
    assert usual.request_id == b"X-Request-ID" and usual.via == b"relayd" and usual.custom == frozenset()
    headers = AddedHeaders(request_id="X-Correlation-ID", forwarded="off", via="off")
    changed = compile_plan(config(route(), headers=headers), 1).header_names
    assert (changed.forwarded, changed.via, changed.custom) == (b"", b"", frozenset({b"x-correlation-id"}))


def test_a_route_with_cors_also_takes_the_preflights_of_its_methods() -> None:
    plan = compile_plan(config(route(match=Match(method=("POST",)), cors=Cors())), 1)
    asks = b"OPTIONS / HTTP/1.1\r\nHost: a\r\nOrigin: https://b\r\nAccess-Control-Request-Method: POST\r\n\r\n"
    assert plan.table.match(parse_head(asks)) is plan.routes[0]


def test_all_faults_are_told_at_once_and_without_keys() -> None:
    with pytest.raises(ConfigError) as caught:
        compile_plan(config(
            route("a", match=Match(regex="(a+)+")),
            route("b", match=Match(prefix="/x"), strip_prefix="/y"),
            route("c", upstream="llm", request_headers=HeaderEdits(set={"Authorization": "sk-2"})),
            upstreams={"web": Upstream(endpoints=(Endpoint(url="gopher://sk-3"),)), "llm": LLM},
            consumers={"one": section(Consumer, bearer=KEY), "two": section(Consumer, bearer=KEY)},
        ), 1)
    paths = [finding.path for finding in caught.value.findings]
    assert paths == ["upstreams.web", "routes[0].match", "routes[1]", "routes[2].request_headers", "consumers.two"]
    assert "sk-" not in str(caught.value)


def test_a_plan_is_frozen() -> None:
    plan: Plan = compile_plan(config(route()), 1)
    with pytest.raises(AttributeError):
        plan.generation = 2  # type: ignore[misc]


@pytest.mark.parametrize("line", [
    "Authorization: Bearer sk-1", "x-api-key: sk-1", "api-key: sk-1", "X-Goog-Api-Key: sk-1",
])
def test_a_key_for_every_place_is_known_in_every_place(line: str) -> None:
    made = compile_plan(config(consumers={"team": section(Consumer, key=Secret("sk-1", "env K"))}), 1)
    head = parse_head(f"GET / HTTP/1.1\r\nHost: a\r\n{line}\r\n\r\n".encode())
    identity = made.consumers.identify(ClientRequest(head))
    assert identity is not None and identity.name == "team"
    assert made.consumers.identify(ClientRequest(parse_head(b"GET / HTTP/1.1\r\nHost: a\r\nX-Key: sk-1\r\n\r\n"))) is None


def test_a_plan_that_is_never_committed_leaves_no_gate() -> None:
    gates = Gates()
    for number in range(5):
        limits = Limits(requests=1, queue=2)
        plan = compile_plan(config(dataclasses.replace(route(f"r{number}"), limits=limits)), number + 1, gates=gates)
        assert plan.routes[0].resilience is not None and plan.routes[0].resilience.gate is not None
        assert list(gates) == []
    del plan
    assert gates.names() == set()


def test_a_reload_does_not_prove_in_the_loop_what_the_loader_has_proven() -> None:
    """A proof takes milliseconds, and the plan is compiled in the event loop."""
    patterns = [f"/p{number}/[a-z]+/([0-9]{{1,40}})/x[^/]*" for number in range(20)]
    begun = time.thread_time()
    for pattern in patterns:
        assert fault_of_regex(pattern) is None  # by the loader, in its thread
    proven_s = time.thread_time() - begun
    made = config(*(route(f"r{number}", match=Match(regex=pattern)) for number, pattern in enumerate(patterns)))
    begun = time.thread_time()
    compile_plan(made, 1)
    assert time.thread_time() - begun < proven_s / 2
