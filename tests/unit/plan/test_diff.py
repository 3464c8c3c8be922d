"""What an operator reads after a reload."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from relayd.config.access import Consumer, Group
from relayd.config.listener import Listener
from relayd.config.model import Config
from relayd.config.prices import ModelPrice, PriceList
from relayd.config.route import Cors, HeaderEdits, Match, Respond, Route
from relayd.config.upstream import Auth, Endpoint, Upstream, UpstreamTimeouts
from relayd.plan.diff import contents_diff, diff, files_diff, looks_secret, show
from relayd.schema import Duration, Money, Secret, Size
from tests.aids.sections import section


def lines(old: Config, new: Config) -> list[str]:
    return [str(change) for change in diff(old, new)]


def upstream(url: str = "http://a", **words: object) -> Mapping[str, Upstream]:
    return {"web": Upstream(endpoints=(Endpoint(url=url),), **words)}  # type: ignore[arg-type]


def route(name: str, **words: object) -> Route:
    return Route(name=name, upstream="web", **words)  # type: ignore[arg-type]


def test_equal_configurations_differ_in_nothing() -> None:
    assert lines(Config(upstreams=upstream()), Config(upstreams=upstream())) == []


def test_a_duration_is_told_with_its_path_and_unit() -> None:
    old = Config(upstreams=upstream(timeouts=UpstreamTimeouts(idle=Duration(120))))
    new = Config(upstreams=upstream(timeouts=UpstreamTimeouts(idle=Duration(0.25))))
    assert lines(old, new) == ["~ upstreams.web.timeouts.idle: 2m -> 250ms"]


def test_a_price_is_told_as_it_is_written() -> None:
    old, new = (
        Config(prices=PriceList(models={"m": ModelPrice(input=Money(nano))})) for nano in (2_500_000_000, 3_000_000_000)
    )
    assert lines(old, new) == ["~ prices.models.m.input: 2.5 -> 3"]


def test_new_and_gone_routes_are_named() -> None:
    old = Config(routes=(route("a"), route("b")))
    new = Config(routes=(route("a"), route("llm")))
    assert lines(old, new) == ["- routes.b", "+ routes.llm"]


def test_another_order_of_routes_is_told_since_the_first_match_wins() -> None:
    old, new = Config(routes=(route("a"), route("b"))), Config(routes=(route("b"), route("x"), route("a")))
    assert lines(old, new) == ["+ routes.x", "~ routes: order: a, b -> b, a"]


def test_a_changed_route_is_compared_by_name() -> None:
    old = Config(routes=(route("a", match=Match(prefix="/a")), route("b")))
    new = Config(routes=(route("a", match=Match(prefix="/c"), allow=("team",), cors=Cors()), route("b")))
    assert lines(old, new) == [
        "~ routes.a.match.prefix: /a -> /c", "~ routes.a.allow: [] -> [team]", "+ routes.a.cors",
    ]


def test_endpoints_and_listeners_are_told() -> None:
    old = Config(listeners={"p": Listener(address="127.0.0.1:1")}, upstreams=upstream("http://a"))
    new = Config(listeners={"p": Listener(address="127.0.0.1:2")}, upstreams=upstream("http://b"))
    assert lines(old, new) == [
        "~ listeners.p.address: 127.0.0.1:1 -> 127.0.0.1:2", "~ upstreams.web.endpoints: [http://a] -> [http://b]",
    ]


def test_a_secret_is_told_by_its_source_only() -> None:
    def with_key(value: str, source: str) -> Config:
        key = Secret(value, source)
        return Config(upstreams=upstream(auth=Auth(bearer=(key,))), consumers={"team": section(Consumer, bearer=key)})

    told = lines(with_key("sk-old", "file /k"), with_key("sk-new", "file /k"))
    assert told == [
        "~ upstreams.web.auth.bearer: Secret(file /k) changed", "~ consumers.team.bearer: Secret(file /k) changed",
    ]
    told = lines(with_key("sk-old", "file /k"), with_key("sk-old", "env K"))
    assert told[0] == "~ upstreams.web.auth.bearer: Secret(file /k) -> Secret(env K)"
    assert "sk-" not in "".join(lines(Config(upstreams=upstream()), with_key("sk-new", "env K")))


def test_of_several_keys_the_one_that_changed_is_told() -> None:
    def with_keys(*values: str) -> Config:
        keys = tuple(Secret(value, f"file /k/{place}") for place, value in enumerate(values))
        return Config(upstreams=upstream(auth=Auth(bearer=keys)))

    assert lines(with_keys("a", "b"), with_keys("a", "c")) == [
        "~ upstreams.web.auth.bearer[1]: Secret(file /k/1) changed"]
    assert lines(with_keys("a"), with_keys("a", "b")) == [
        "~ upstreams.web.auth.bearer: [Secret(file /k/0)] -> [Secret(file /k/0), Secret(file /k/1)]"]


def test_a_key_written_into_a_header_edit_is_not_shown() -> None:
    def with_edit(key: str, other: str) -> Config:
        return Config(routes=(route("a", request_headers=HeaderEdits(set={"Authorization": key, "X-A": other})),))

    assert lines(with_edit("sk-old", "1"), with_edit("sk-new", "2")) == [
        "~ routes.a.request_headers.set.Authorization: changed (not shown)",
        "~ routes.a.request_headers.set.X-A: 1 -> 2",
    ]


def test_long_and_unprintable_texts_are_cut_and_escaped() -> None:
    old = Config(routes=(Route(name="a", respond=Respond(body="x" * 500)),))
    new = Config(routes=(Route(name="a", respond=Respond(body="a\nb\x1b[31m")),))
    (line,) = lines(old, new)
    assert len(line) < 200 and "\n" not in line and "\x1b" not in line


@pytest.mark.parametrize(("value", "text"), [
    (True, "true"), (Size(65536), "64KiB"), (Size(1000), "1000"), (Duration(0), "0"), (Duration(1.5), "1500ms"),
    (("a", "b"), "[a, b]"), ("", "''"), (None, "none"), (7, "7"), (Endpoint(url="http://a"), "http://a"),
])
def test_values_are_shown_as_the_configuration_writes_them(value: object, text: str) -> None:
    assert show(value).lower() == text.lower()


def test_fields_that_hold_keys_are_known_by_their_names() -> None:
    assert looks_secret("X-Api-Key") and looks_secret("Cookie") and looks_secret("X-Access-Token")
    assert not looks_secret("X-Tenant")


def test_files_that_are_read_no_longer_come_first_and_new_ones_are_named() -> None:
    before, after = ("/etc/relayd.yaml", "/etc/relayd.d/a.yaml", "/etc/relayd.d/b.yaml"), ("/etc/relayd.yaml", "/etc/relayd.d/c.yaml")
    assert [str(one) for one in files_diff(before, after)] == [
        "- include: /etc/relayd.d/a.yaml", "- include: /etc/relayd.d/b.yaml", "+ include: /etc/relayd.d/c.yaml",
        "~ include: 2 files -> 1 file",
    ]
    assert files_diff(before, before) == []


def test_a_file_whose_contents_changed_under_the_same_name_is_named() -> None:
    old = {"listeners.a.tls.cert": ("/a.pem", "1"), "listeners.b.tls.cert": ("/b.pem", "1"), "gone": ("/c.pem", "1")}
    new = {"listeners.a.tls.cert": ("/a.pem", "2"), "listeners.b.tls.cert": ("/other.pem", "2"), "new": ("/d.pem", "1")}
    assert [str(one) for one in contents_diff(old, new)] == ["~ listeners.a.tls.cert: /a.pem changed"]
    assert contents_diff(new, new) == []


def test_groups_and_what_consumers_may_use_are_compared() -> None:
    key = Secret("sk-1", "env K")
    old = Config(consumers={"team": section(Consumer, bearer=key, models=("gpt-*",))})
    new = Config(consumers={"team": section(Consumer, bearer=key, models=("gpt-*", "fast"), group="paying")}, groups={"paying": Group(routes=("llm",))})
    assert lines(old, new) == ["+ groups.paying", "+ consumers.team.group: paying", "~ consumers.team.models: [gpt-*] -> [gpt-*, fast]"]
