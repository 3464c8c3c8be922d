"""What an upstream's head may say of the keys that relayd sent it: nothing."""

from __future__ import annotations

import base64
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.wire.key_filter import MAX_KNOWN, KeyFilter
from relayd.wire.response import ResponseHead, parse_response

KEY = "sk-Relay/0123+x"
BASIC = "Basic " + base64.b64encode(b"robot:hunter2-long").decode()


def bearer(value: str = KEY) -> KeyFilter:
    return KeyFilter([("bearer", "Authorization", value)])


def query(value: str = KEY, name: str = "key") -> KeyFilter:
    return KeyFilter([("query", name, value)])


def cleaned(keys: KeyFilter, *lines: str, status: str = "200 OK") -> ResponseHead:
    raw = "".join([f"HTTP/1.1 {status}\r\n", *(f"{line}\r\n" for line in lines), "\r\n"]).encode("latin-1")
    response = parse_response(raw)
    keys.clean(response)
    return response


def spellings(key: str) -> list[str]:
    every = "".join(f"%{byte:02x}" for byte in key.encode())
    coded = base64.b64encode(b"user:" + key.encode() + b"~~?").decode()
    return [
        "".join(f"%{ord(sign):02x}" for sign in every), quote(coded, safe=""), quote(quote(coded, safe=""), safe=""), coded.replace("/", "\\/"),
        "".join(f"%{ord(sign):02x}" for sign in coded), quote(key.replace("/", "\\/"), safe=""), quote("".join(f"\\u{ord(sign):04x}" for sign in key), safe=""),
        "".join(f"&#{ord(sign)};" for sign in key), key.replace("+", "&#43;").replace("/", "&#x2F;"), key.replace("+", "%20"),
        key, quote(key, safe=""), quote(key, safe="").lower() if "%" in quote(key, safe="") else key, every, every.upper(),
        quote(quote(key, safe=""), safe=""), key.replace("/", "\\/"), "".join(f"\\u{ord(sign):04x}" for sign in key),
        *(base64.b64encode(lead + key.encode() + b"!").decode() for lead in (b"", b"a", b"ab", b"user:")),
        base64.urlsafe_b64encode(b"x" + key.encode()).decode().rstrip("="), "x" + key + "y", f"a={key}&b",
    ]  # fmt: skip


@pytest.mark.parametrize("spelling", [one for one in spellings(KEY) if one != quote(KEY, safe="").lower()])
@pytest.mark.parametrize("field", ["X-Debug: {}", "Set-Cookie: a={}; Path=/", "Link: <http://up/?x={}>; rel=next", "Refresh: 1;url=/{}",
                                   "Alt-Svc: {}", "SourceMap: /m?k={}", "Content-Location: /{}"])
def test_a_field_that_holds_the_key_is_left_out(field: str, spelling: str) -> None:
    keys = bearer()
    response = cleaned(keys, "X-Before: 1", field.format(spelling), "X-After: 2")
    assert response.keep == [b"X-Before: 1\r\n", b"X-After: 2\r\n"]
    assert sum(keys.pop_counts().values()) == 1 and not keys.pop_counts()


def test_a_fields_name_is_a_place_too() -> None:
    keys = bearer("sk-relay-0123")
    assert cleaned(keys, "X-sk-relay-0123: 1").keep == [] and list(keys.counts) == ["a field's name"]


@given(st.text("abcXYZ019-_.~/+= &%\\", min_size=8, max_size=40).filter(lambda key: key.strip() == key), st.data())
def test_no_percent_encoding_hides_a_key(key: str, data: st.DataObject) -> None:
    def spelled(byte: int) -> str:
        forms = [f"%{byte:02x}", f"%{byte:02X}", f"%25{byte:02x}"]
        return data.draw(st.sampled_from(forms + ([chr(byte)] if chr(byte).isalnum() else [])))

    text = "".join(spelled(byte) for byte in key.encode())
    assert bearer(key).holds(b"X: a=" + text.encode() + b"\r\n")


def test_other_heads_are_left_as_they_are() -> None:
    lines = ["Location: /x?key=mine&a=%2F", "Set-Cookie: a=b", "Report-To: {\"url\":\"https:\\/\\/a\"}", "X: 100%"]
    for keys in (bearer(), query()):
        response = cleaned(keys, *lines)
        assert [line.decode().strip() for line in response.keep] == lines and not keys.counts


@pytest.mark.parametrize(("before", "after"), [
    ("http://up:1/v1/x?key=K", "http://up:1/v1/x"),
    ("http://up:1/v1/x?key=K&a=1", "http://up:1/v1/x?a=1"),
    ("/x?a=1&key=K&b=%2f", "/x?a=1&b=%2f"),
    ("/x?a=1;KEY=K", "/x?a=1"),
    ("/x?%6bey=K#top", "/x#top"),
    ("/x?key=K&key=K&a", "/x?a"),
    ("/x?key=K&key=K", "/x"),
    ("/x?key=K&key=mine", "/x?key=mine"),
    ("/x?monkey=1&key=K", "/x?monkey=1"),
    ("?key=K", ""),
])
def test_of_a_url_only_the_parameter_is_cut_out(before: str, after: str) -> None:
    for key in {quote(KEY, safe=""), "".join(f"%{byte:02x}" for byte in KEY.encode())}:
        keys = query()
        response = cleaned(keys, f"Location: {before.replace('K', key) if 'KEY' not in before else before.replace('=K', '=' + key)}")
        assert response.keep == [f"Location: {after}\r\n".encode()] and keys.counts == {"Location": 1}


def test_of_links_only_the_parameter_is_cut_out() -> None:
    key = quote(KEY, safe="")
    response = cleaned(query(), f'Link: </v1?key={key}&p=2>; rel="next", </v1?p=9&key={key}>; rel="last"', f"Refresh: 3; url=/x?key={key}")
    assert response.keep == [b'Link: </v1?p=2>; rel="next", </v1?p=9>; rel="last"\r\n', b"Refresh: 3; url=/x\r\n"]


def test_a_url_that_holds_the_key_elsewhere_too_is_left_out() -> None:
    key = quote(KEY, safe="")
    for value in (f"/x?other={key}", f"/x?key={key}&next=%2F%3Fkey%3D{quote(key, safe='')}", f"/{key}?key={key}"):
        assert cleaned(query(), f"Location: {value}").keep == []


@pytest.mark.parametrize("spelling", [one for one in spellings(KEY) if one != quote(KEY, safe="").lower()])
def test_an_error_that_holds_the_key_is_told_without_it(spelling: str) -> None:
    told = bearer().body(b"before " + spelling.encode() + b" after")
    assert spelling.encode() not in told and b"***" in told
    assert bearer().body(b"<p>Tom &amp; Jerry &#43; 100% \\u0041</p>") == b"<p>Tom &amp; Jerry &#43; 100% \\u0041</p>"


def test_a_short_key_is_a_word_of_its_own_in_escapes_too() -> None:
    keys = bearer("s3cr3t")
    escaped = "".join(f"%25{ord(sign):02x}" for sign in "s3cr3t")
    assert keys.holds(b"X: a=" + quote(escaped, safe="").encode()) and not keys.holds(b"X: " + escaped.encode() + b"ary")


def test_the_reason_is_a_place_too() -> None:
    assert cleaned(bearer(), status=f"400 Bad key {KEY}").reason == b""


def test_what_basic_credentials_say_is_a_secret() -> None:
    keys = KeyFilter([("header", "Authorization", BASIC)])
    assert BASIC.isascii()
    for text in (BASIC, BASIC.partition(" ")[2], "robot:hunter2-long", "hunter2-long", "robot%3Ahunter2-long"):
        assert cleaned(keys, f"X: {text}").keep == [], text
    assert cleaned(keys, "X: robot").keep == [b"X: robot\r\n"]


def test_a_scheme_is_not_part_of_the_secret() -> None:
    keys = KeyFilter([("header", "Authorization", "Token abcd-1234-efgh")])
    assert cleaned(keys, "X: abcd-1234-efgh").keep == [] and cleaned(keys, "X: Token").keep


def test_every_key_of_an_upstream_counts() -> None:
    keys = KeyFilter([("bearer", "Authorization", "first-key-1"), ("bearer", "Authorization", "second-key-2")])
    assert cleaned(keys, "A: first-key-1", "B: second-key-2", "C: third-key-3").keep == [b"C: third-key-3\r\n"]


@pytest.mark.parametrize("word", ["none", "EMPTY", "ollama", "x", "abc"])
def test_a_word_that_stands_for_no_key_is_none(word: str) -> None:
    assert cleaned(bearer(word), f"Content-Security-Policy: default-src '{word}'").keep
    assert cleaned(query(word), f"Location: /?key={word}&a={word}").keep == [f"Location: /?a={word}\r\n".encode()]


def test_a_short_key_is_found_where_it_is_a_word_of_its_own() -> None:
    keys = bearer("s3cr3t")
    for text in ("s3cr3t", "a=s3cr3t;", "%3Ds3cr3t", "%253Ds3cr3t%26", "\"s3cr3t\"", "/s3cr3t/"):
        assert cleaned(keys, f"X: {text}").keep == [], text
    assert cleaned(keys, "X: s3cr3tary", "Y: as3cr3t").keep == [b"X: s3cr3tary\r\n", b"Y: as3cr3t\r\n"]


def test_a_very_long_key_is_found_by_its_beginning() -> None:
    key = "".join(chr(65 + number % 26) for number in range(5000))
    keys = bearer(key)
    assert cleaned(keys, f"X: {key}").keep == []
    assert keys.text(f"the key {key} is bad") == "the key *** is bad"


def test_errors_are_masked() -> None:
    keys = bearer()
    assert keys.text(f"Incorrect API key provided: {KEY}. See %2Fkeys") == "Incorrect API key provided: ***. See %2Fkeys"
    assert keys.text("all is well \udcff") == "all is well \udcff"
    assert keys.body(b'{"error":"' + KEY.replace("/", "\\/").encode() + b'"}') == b'{"error":"***"}'


def test_names_that_an_upstream_invents_do_not_grow_without_end() -> None:
    keys = bearer()
    for number in range(100):
        cleaned(keys, f"X-{number}: {KEY}")
    assert len(keys.counts) <= 17 and sum(keys.counts.values()) == 100


def test_nothing_shows_a_key() -> None:
    assert KEY not in repr(bearer())


def test_a_key_is_found_however_many_lines_without_it_came_before() -> None:
    keys = bearer()
    for number in range(MAX_KNOWN * 2):
        assert len(cleaned(keys, f"X-Request-Id: {number}", "Server: x").keep) == 2
        assert cleaned(keys, f"X-Request-Id: {number}", f"X-Echo: {KEY}").keep == [b"X-Request-Id: %d\r\n" % number]
    assert keys.pop_counts() == {"X-Echo": MAX_KNOWN * 2}


def test_a_lazy_filter_finds_the_same() -> None:
    keys = [("header", "X-Key", "sk-lazy/0123456789")]
    data = b"a sk-lazy/0123456789 b sk-lazy%2F0123456789 c"
    lazy = KeyFilter(keys, lazy=True)
    assert not lazy.holds(b"nothing %2F") and lazy.body(b"nothing") == b"nothing"
    assert lazy.body(data) == KeyFilter(keys).body(data) == b"a *** b *** c"
    assert KeyFilter([], lazy=True).body(data) == data
