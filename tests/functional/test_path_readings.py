"""What a rule locks stays locked, however the request spells its path, host or method; and no path stalls the process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.functional.harness.message import Message, answer, request
from tests.functional.harness.relay import ROOT, Relay
from tests.functional.harness.upstream import Upstream, saying


def CONFIG(folder: Path, url: str) -> dict[str, Any]:
    (folder / "team").write_text("team-key-7f3a91\n")
    locked = [
        {"prefix": "/admin/"}, {"path": "/exact"}, {"regex": "/v[0-9]+/secret/.*"}, {"host": ["admin.test", "[::1]"]}, {"prefix": "/post", "method": ["POST"]},
        {"prefix": "/café/"}, {"prefix": "/a b/"}, {"prefix": "/p%2fq/"}, {"prefix": "/d/../e/"}, {"prefix": "/f//g/"}, {"path": "/users/@me"},
        {"header": {"X-Team": "blue"}},
    ]
    return {
        "upstreams": {"up": {}, "based": {"endpoints": [url + "/base"]}},
        "consumers": {"team": {"bearer": {"file": str(folder / "team")}}},
        "routes": [
            *({"name": f"locked-{number}", "match": match, "upstream": "up", "allow": ["team"]} for number, match in enumerate(locked)),
            {"name": "strip", "match": {"prefix": "/strip/"}, "upstream": "up", "strip_prefix": "/strip"},
            {"name": "tenant", "match": {"prefix": "/tenant/"}, "upstream": "up", "rewrite": "/tenants/one/"},
            {"name": "based", "match": {"prefix": "/based/"}, "upstream": "based"},
            {"name": "moved", "match": {"prefix": "/moved/"}, "redirect": "https://{host}{path}{query}"},
            {"name": "relative", "match": {"regex": "/.*/relative"}, "redirect": "{path}{query}"},
            {"name": "open", "match": {"prefix": "/"}, "upstream": "up"},
        ],
    }


def ask(relay: Relay, target: bytes, *lines: bytes, **more: Any) -> Message:
    with relay.client() as client:
        return client.ask(request(target, *lines, **more))


NAMED = [b"/admin/x", b"/admin/x?a=1", b"http://other.test/admin/x", b"https://other.test:8443/admin/x#a", b"admin/x", b"/%61dmin/x", b"/open/../admin/x",
         b"/;/admin/x", b"//admin/x", b"\\admin/x"]
PATH_FIELDS = [b"X-Original-URL", b"x-rewrite-url", b"X_Original_URL", b"X-ORIGINAL-URI", b"X-Forwarded-Uri", b"X-Override-URL", b"Request-Uri", b"X_Rewrite-URL"]


@pytest.mark.parametrize("name", PATH_FIELDS)
def test_a_field_that_names_the_path_for_some_servers_opens_no_locked_path(relay: Relay, upstream: Upstream, name: bytes) -> None:
    """Zend, Symfony (CVE-2018-14773) and IIS route by such a field; the rule must hold for the path that it names."""
    for value in NAMED:
        assert ask(relay, b"/open", name + b": " + value).status == 400, value
        assert ask(relay, b"/open", name + b": /open", name + b": " + value).status == 400, value
    assert ask(relay, b"/open", *[name + b": /open"] * 5).status == 400
    assert upstream.nothing_came()


@pytest.mark.parametrize("name", PATH_FIELDS)
def test_a_field_that_names_a_path_of_the_same_route_is_forwarded(relay: Relay, upstream: Upstream, name: bytes) -> None:
    upstream.script = saying(answer())
    for value in (b"/open", b"/elsewhere?a=/admin/", b"http://other.test", b""):
        assert ask(relay, b"/open", name + b": " + value).status == 200, value
    sent = upstream.request()
    assert sent.get(name.decode().lower()) == b"/open"
    key = b"Authorization: Bearer team-key-7f3a91"
    assert ask(relay, b"/admin/x", name + b": /admin/y", key).status == 200


ADMIN = [
    b"/admin/x", b"/;/admin/x", b"/admin;a/x", b"/admin;/x", b"/;a=b/admin/x", b"/admin%3Bx/y", b"/admin%3bx/y", b"/admin%253Bx/y", b"/x/..;/admin/y",
    b"/x/..;a=b/admin/y", b"/x/%2e%2e;/admin/y", b"//admin/x", b"/./admin/x", b"/x/../admin/y", b"/%61dmin/x", b"/%2561dmin/x", b"/%252561dmin/x",
    b"/admin%2fx", b"/admin%2Fx", b"/admin%252fx", b"/admin%5cx", b"/admin\\x", b"/x/..\\admin/y", b"/x/..%5cadmin/y", b"/x%2f..%2fadmin/y",
    b"/x/.%2e/admin/y", b"/admin./x", b"/admin../x", b"/admin%20/x", b"/admin.%20/x", b"/x/%c0%ae%c0%ae/admin/y", b"/admin%c0%afx",
    b"/admin%e0%80%afx", b"/admin%f8%80%80%80%afx", b"/admin%u002fx", b"/x/%u002e%u002e/admin/y", b"/%2fadmin/x", b"/x/../admin/%252e%252e/y", b"/x/../admin/..;/y",
    b"/x/../admin//../y", b"/x/../admin/%2e%2e/y", b"/x/../admin/..\\y",
]
OTHERS = [
    b"/exact", b"/exact;a", b"/exact%00", b"/exact%00.png", b"/exact%3fa", b"/exact%23", b"/exact.", b"/exact%20", b"/%65xact", b"/x/../exact",
    b"/v1/secret/x", b"/v1/;/secret/x", b"/v1//secret/x", b"/v%31/secret/x", b"/v1/secret;a/x", b"/v1/x/../secret/y",
    b"/caf%C3%A9/x", b"/caf%c3%a9/x", b"/a%20b/x", b"/p/q/x", b"/p%2fq/x", b"/p%2Fq/x", b"/e/x", b"/d/../e/x", b"/f/g/x", b"/f//g/x", b"/users/@me", b"/users/%40me",
]


@pytest.mark.parametrize("target", [*ADMIN, *OTHERS])
def test_no_spelling_of_a_path_gets_around_a_lock(target: bytes, relay: Relay, upstream: Upstream) -> None:
    message = ask(relay, target)
    assert message.status in (400, 401), message.status
    assert upstream.nothing_came()


@pytest.mark.parametrize("target", [
    b"/a;b=c/d", b"/files/my%20doc.pdf", b"/a%2fb", b"/x/../y", b"//a//b", b"/.well-known/x", b"/map;lat=1;lon=2", b"/100%", b"/x%00", b"/a.b.", b"/%E4%F6",
    b"/api/queues/%2f/name", b"/proxy/https%253A%252F%252Fa", b"/v1/open/a%40b", b"/wiki/What%3F",
])
def test_an_odd_path_of_an_open_route_goes_on_as_it_came(target: bytes, relay: Relay, upstream: Upstream) -> None:
    assert ask(relay, target).status == 200
    assert upstream.heads[-1].target == target


@pytest.mark.parametrize("host", [
    b"admin.test", b"ADMIN.test", b"admin.test.", b"admin.test.:80", b"admin.test:80", b"admin.test..", b".admin.test", b"admin..test", b"%61dmin.test", b"admin%2etest",
    b"[::1]", b"[0:0:0:0:0:0:0:1]:80", b"[::0001]",
])
def test_no_spelling_of_a_host_gets_around_a_lock(host: bytes, relay: Relay, upstream: Upstream) -> None:
    assert ask(relay, b"/x", host=host).status in (400, 401)
    assert ask(relay, b"http://" + host + b"/x").status in (400, 401)
    assert upstream.nothing_came()


@pytest.mark.parametrize("method", [b"POST", b"post", b"Post", b"pOST", b"trace", b"connect", b"purge"])
def test_no_spelling_of_a_method_gets_around_a_lock(method: bytes, relay: Relay, upstream: Upstream) -> None:
    assert ask(relay, b"/post", method=method, body=b"{}").status in (400, 401)
    assert upstream.nothing_came()


def test_a_repeated_field_does_not_get_around_a_lock(relay: Relay, upstream: Upstream) -> None:
    for lines in ((b"X-Team: blue",), (b"X-Team: red", b"X-Team: blue"), (b"x-team: blue", b"X-TEAM: red"), (b"X-Team: blue", b"X-Team: blue"), (b"X_Team: blue",), (b"X-Team: red, blue",), (b"X-Team: blue,red",)):
        assert ask(relay, b"/x", *lines).status in (400, 401)
    assert upstream.nothing_came()
    assert ask(relay, b"/x", b"X-Team: red", b"X-Team: green").status == 200
    assert ask(relay, b"/x", b"X-Team: red, green").status == 200


@pytest.mark.parametrize(("target", "seen"), [
    (b"/strip//evil.example/x", b"/evil.example/x"), (b"/strip/\\evil.example/x", b"/evil.example/x"), (b"/strip///x", b"/x"), (b"/strip/x//y", b"/x//y"),
    (b"/tenant/x", b"/tenants/one/x"), (b"/based/x", b"/base/based/x"),
])
def test_what_is_left_of_a_path_begins_with_one_slash(target: bytes, seen: bytes, relay: Relay, upstream: Upstream) -> None:
    assert ask(relay, target).status == 200
    assert upstream.heads[-1].target == seen


@pytest.mark.parametrize("target", [
    b"/tenant/x/../../tenant/y", b"/tenant/%2e%2e/tenant/x", b"/strip/x/..;/y", b"/based/../based/x", b"/based/x/%252e%252e/%252e%252e/based/y", b"/tenant/..\\tenant/x",
])
def test_a_client_does_not_climb_out_of_where_a_route_puts_it(target: bytes, relay: Relay, upstream: Upstream) -> None:
    message = ask(relay, target)
    assert message.status == 400 and json.loads(message.body)["code"] == "ambiguous_path"
    assert upstream.nothing_came()


def test_a_redirect_leads_to_no_host_of_the_clients_choosing(relay: Relay, upstream: Upstream) -> None:
    assert ask(relay, b"//evil.example/relative").get("location") == b"/evil.example/relative"
    assert ask(relay, b"/\\evil.example/relative").get("location") == b"/evil.example/relative"
    assert ask(relay, b"/moved/{query}?a=b").get("location") == b"https://relayd.test/moved/{query}?a=b"
    assert ask(relay, b"/moved/x", host=b"", version=b"HTTP/1.0").status == 400
    assert ask(relay, b"/moved/x", host=b"h.test", version=b"HTTP/1.0").get("location") == b"https://h.test/moved/x"


def test_a_path_that_is_too_long_for_a_regex_is_refused(relay: Relay, upstream: Upstream) -> None:
    assert ask(relay, b"/" + b"x" * 9000).status == 414
    assert upstream.nothing_came()
    upstream.script = saying(answer(b"x"))
    assert ask(relay, b"/" + b"x" * 8000).status == 200


def check(folder: Path, *matches: dict[str, Any]) -> tuple[int, str]:
    file = folder / "checked.yaml"
    file.write_text(json.dumps({
        "listeners": {"public": {"address": "127.0.0.1:0"}}, "upstreams": {"up": {"endpoints": ["http://127.0.0.1:1"]}},
        "routes": [{"name": f"r{number}", "match": match, "upstream": "up"} for number, match in enumerate(matches)],
    }))
    done = subprocess.run([sys.executable, "-m", "relayd", "check", "-c", str(file)], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(("match", "reason"), [
    ({"regex": "/files/.*a.*a.*z"}, ".* at character 11 and .* at character 14"),
    ({"regex": "/(?:[a-z0-9-]{1,63}[.]?){1,10}/x"}, "character 5"),
    ({"regex": "/(a|b|ab){1,99}!"}, "character 2"),
    ({"regex": "/(a{1,1000}){1,1000}"}, "1000001 positions"),
    ({"regex": "/(?!admin).*"}, "lookahead"),
    ({"regex": "/p%2fq/.*"}, "cannot match any path"),
    ({"prefix": "/x?y=1"}, "query"), ({"path": "/x#y"}, "fragment"), ({"host": ["admin.test.."]}, "empty label"), ({"host": ["%61dmin.test"]}, "escape"),
    ({"host": ["bücher.example"]}, "xn--"), ({"host": ["admin.test:80"]}, "port"), ({"method": ["post"]}, "did you mean POST"), ({"method": ["Post"]}, "did you mean POST"),
    ({"method": ["TRACE"]}, "405"), ({"header": {"X Team": "a"}}, "field name"), ({"header": {"X-A": "1", "x-a": "2"}}, "same field"), ({"model": [""]}, "empty"),
])
def test_check_refuses_what_cannot_be_meant_with_its_reason(match: dict[str, Any], reason: str, tmp_path: Path) -> None:
    code, said = check(tmp_path, match)
    assert code == 78 and reason in said


def test_check_tells_in_which_form_a_path_is_compared(tmp_path: Path) -> None:
    code, said = check(tmp_path, {"prefix": "/café/"}, {"prefix": "/f//g/"})
    assert code == 0 and "/caf%C3%A9/" in said and "/f/g/" in said
