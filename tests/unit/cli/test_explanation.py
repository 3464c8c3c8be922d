"""The explanation of a hypothetical request."""

from __future__ import annotations

from typing import Any

import pytest

from relayd.cli.explanation import HypotheticalRequest, explanation
from relayd.config.access import Consumer
from relayd.config.listener import Certificate, Listener, Tls
from relayd.config.model import Config
from relayd.config.route import Cors, HeaderEdits, Match, Redirect, Respond, Route
from relayd.config.upstream import Auth, Endpoint, QueryKeys, Upstream, UpstreamTls
from relayd.plan.compile import compile_plan
from relayd.schema import Secret, Size
from relayd.wire.http1 import parse_head
from tests.aids.sections import section

UPSTREAM_KEY, TEAM_KEY = Secret("sk-upstream", "file /keys/chutes"), Secret("sk-team", "env TEAM")
CONFIG = Config(
    listeners={
        "public": Listener(address="127.0.0.1:8282", trusted_proxies=("10.0.0.0/8",)),
        "secure": Listener(address="[::]:443", tls=Tls(certificates=(Certificate(cert="/c", key="/k"),))),
        "socket": Listener(address="unix:/run/relayd/x.sock"),
    },
    upstreams={
        "chutes": Upstream(
            protocol="openai_chat", endpoints=(Endpoint(url="https://llm.example/v1"), Endpoint(url="https://b.example")),
            auth=Auth(bearer=(UPSTREAM_KEY,)),
        ),
        "gemini": Upstream(
            endpoints=(Endpoint(url="https://g.example"),), tls=UpstreamTls(verify=False),
            auth=Auth(query=QueryKeys(name="apitoken", value=(UPSTREAM_KEY,))),
        ),
        "web": Upstream(endpoints=(Endpoint(url="http://127.0.0.1:9001"),)),
    },
    routes=(
        Route(name="llm", match=Match(prefix="/v1/"), upstream="chutes", allow=("team",), cors=Cors(), body_limit=Size(9)),
        Route(name="gemini", match=Match(prefix="/g/"), upstream="gemini", strip_prefix="/g"),
        Route(name="moved", match=Match(path="/old"), redirect=Redirect(location="https://{host}/new{query}")),
        Route(name="gone", match=Match(path="/gone"), respond=Respond(status=410)),
        Route(name="admin", match=Match(path="/health"), upstream="admin"),
        Route(name="models", match=Match(path="/m"), upstream="by_model"),
        Route(name="web", match=Match(prefix="/web/"), upstream="web",
              request_headers=HeaderEdits(remove=("Cookie",), set={"X-Access-Token": "sk-upstream"})),
    ),
    consumers={"team": section(Consumer, bearer=TEAM_KEY)},
)
PLAN = compile_plan(CONFIG, 1)


def result(start: str, *fields: str, scheme: str = "", host: str = "127.0.0.1:8282", peer: str = "192.0.2.1") -> Any:
    lines = "".join(f"{field}\r\n" for field in (f"Host: {host}", *fields))
    answer = explanation(PLAN, HypotheticalRequest(parse_head(f"{start} HTTP/1.1\r\n{lines}\r\n".encode()), scheme, peer))
    assert "sk-" not in repr(answer)
    return answer


def test_what_is_sent_has_the_endpoints_target_and_host_and_names_the_source_of_the_key() -> None:
    sent = result("POST /v1/chat/completions?x=%2F", "Authorization: Bearer sk-team", "X-A: 1")["sent"]
    assert sent["target"] == "/v1/chat/completions?x=%2F"
    assert sent["fields"][0] == "Host: llm.example" and "X-A: 1" in sent["fields"]
    assert sent["key"] == "Authorization: Bearer, from file /keys/chutes"
    assert "Authorization: ***" in sent["added"] and "Authorization: ***" in sent["removed"]
    assert sent["endpoints"] == ["https llm.example:443", "https b.example:443"]
    assert sent["timeouts"] == {"connect": "5s", "first_byte": "5m", "idle": "2m", "total": "off"}


def test_a_consumers_key_is_named_by_its_owner() -> None:
    assert result("GET /v1/x", "Authorization: Bearer sk-team")["consumer"] == {
        "allowed": ["team"], "known": "team", "group": None, "routes": None, "models": None}


def test_a_request_without_a_key_shows_its_401_and_the_upstream_request() -> None:
    answer = result("GET /v1/x", "Authorization: Bearer sk-other")
    assert (answer["answer"]["status"], answer["answer"]["code"]) == (401, "unauthorized")
    assert answer["route"] == "llm" and answer["sent"] is not None


def test_a_query_key_is_masked_in_both_directions() -> None:
    answer = result("GET /g/x?apitoken=sk-mine&a=b")
    assert answer["request"]["target"] == "/g/x?apitoken=***&a=b"
    assert answer["sent"]["target"] == "/x?a=b&apitoken=***"
    assert answer["sent"]["warning"]


def test_edits_are_shown_and_values_that_may_be_keys_are_not() -> None:
    sent = result("GET /web/x", "Cookie: a=b", "X-Api-Key: sk-mine")["sent"]
    assert "X-Access-Token: ***" in sent["added"] and "Cookie: ***" in sent["removed"]


@pytest.mark.parametrize(("path", "status", "words"), [
    ("/old?a=b", 308, "https://127.0.0.1:8282/new?a=b"), ("/gone", 410, "fixed"), ("/health", 200, "admin"),
    ("/nothing", 404, "No route"),
])
def test_a_response_of_relayd_itself_is_shown(path: str, status: int, words: str) -> None:
    answer = result(f"GET {path}")
    assert answer["answer"]["status"] == status and words in answer["answer"]["why"]
    assert answer["sent"] is None


def test_a_request_without_a_model_shows_the_missing_model() -> None:
    answer = result("POST /m", "Content-Length: 2")["answer"]
    assert (answer["status"], answer["code"]) == (400, "bad_body") and "model" in answer["why"]


def test_an_ambiguous_path_is_shown_with_its_other_interpretation() -> None:
    answer = result("GET /web/../v1/x")["answer"]
    assert answer["code"] == "ambiguous_path" and "/v1/x" in answer["why"] and "llm" in answer["why"]


def test_a_path_that_leaves_the_folder_of_its_route_is_shown() -> None:
    answer = result("GET /g/x/../../g/y")["answer"]
    assert answer["code"] == "ambiguous_path" and "leave the folder" in answer["why"]


def test_a_preflight_is_answered_without_a_key() -> None:
    answer = result("OPTIONS /v1/x", "Origin: https://a", "Access-Control-Request-Method: POST")
    assert answer["answer"]["status"] == 204 and answer["sent"] is None


def test_a_body_above_the_limit_is_shown() -> None:
    answer = result("POST /v1/x", "Authorization: Bearer sk-team", "Content-Length: 10")["answer"]
    assert answer["code"] == "body_too_large"


def test_a_loop_is_shown() -> None:
    assert result("GET /web/x", "Via: 1.1 relayd")["answer"]["code"] == "loop_detected"


def test_listeners_show_whether_the_url_reaches_them() -> None:
    def taking(**words: str) -> list[str]:
        return [one["name"] for one in result("GET /web/x", **words)["listeners"] if one["takes"]]

    assert taking(scheme="http") == ["public", "socket"]
    assert taking(scheme="http", host="a.example") == ["socket"]
    assert taking(scheme="https", host="a.example") == ["secure"]
    assert taking() == ["public", "secure", "socket"]


def test_forwarding_fields_are_believed_from_a_trusted_peer_only() -> None:
    def forwarded(peer: str) -> str:
        fields = result("GET /web/x", "X-Forwarded-For: 203.0.113.9", peer=peer)["sent"]["fields"]
        return next(str(line) for line in fields if line.startswith("X-Forwarded-For"))

    assert forwarded("192.0.2.1") == "X-Forwarded-For: 192.0.2.1"
    assert forwarded("10.1.1.1").startswith("X-Forwarded-For: 203.0.113.9")


def test_every_route_has_its_verdict() -> None:
    verdicts = result("GET /gone")["routes"]
    assert [one["outcome"] for one in verdicts] == ["passed"] * 3 + ["taken"] + ["passed"] * 3
    assert verdicts[0]["condition"] == "prefix"
