"""Secrets never reach a record, and a record is always one line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.wire.redact import SECRET_QUERY, escape, mask_fields, mask_path, mask_query, mask_urls
from tests.aids.growth import linear


@pytest.mark.parametrize(
    ("query", "masked"),
    [
        ("", ""),
        ("?", "?"),
        ("?a=1&b=2", "?a=1&b=2"),
        ("?key=s3cret", "?key=***"),
        ("key=s3cret&key=again&x=1", "key=***&key=***&x=1"),
        ("?KEY=s3cret", "?KEY=***"),
        ("?%6b%65%79=s3cret", "?%6b%65%79=***"),
        ("?%256bey=s3cret", "?%256bey=***"),
        ("?Api-Key=s3cret", "?Api-Key=***"),
        ("?api%5Fkey=s3cret", "?api%5Fkey=***"),
        ("?+key=s3cret", "?+key=***"),
        ("?key[]=s3cret", "?key[]=***"),
        ("?access_token=a=b=c", "?access_token=***"),
        ("?key=a;b=c", "?key=***"),
        ("?a=1;token=s3cret;b=2", "?a=1;token=***"),
        ("??key=s3cret", "??key=***"),
        ("?keyboard=qwerty", "?keyboard=qwerty"),
        ("?key", "?key"),
        ("?Referer=1&x-goog-api-key=s&auth=s&client_secret=s", "?Referer=1&x-goog-api-key=***&auth=***&client_secret=***"),
        ("?secret=s&token=s&code=s&CODE=s", "?secret=***&token=***&code=***&CODE=***"),
        ("?X-Amz-Signature=s&X-Amz-Credential=s&X-Amz-Security-Token=s&X-Amz-Date=1",
         "?X-Amz-Signature=***&X-Amz-Credential=***&X-Amz-Security-Token=***&X-Amz-Date=1"),
        ("?sv=2024&se=1&sig=s", "?sv=2024&se=1&sig=***"),
        ("?id_token=s&refresh_token=s&accessToken=s&clientSecret=s&APIKey=s&AWSAccessKeyId=s",
         "?id_token=***&refresh_token=***&accessToken=***&clientSecret=***&APIKey=***&AWSAccessKeyId=***"),
        ("?accesstoken=s&subscription-key=s&subscriptionkey=s&authkey=s", "?accesstoken=***&subscription-key=***&subscriptionkey=***&authkey=***"),
        ("?passwd=s&pwd=s&pass=s&new.password=s&user[password]=s&key1=s&key_2=s", "?passwd=***&pwd=***&pass=***&new.password=***&user[password]=***&key1=***&key_2=***"),
        ("?session=s&session_id=s&JSESSIONID=s&sid=s&jwt=s&assertion=s&client_assertion=s&otp=s",
         "?session=***&session_id=***&JSESSIONID=***&sid=***&jwt=***&assertion=***&client_assertion=***&otp=***"),
        ("?%63%6F%64%65=s&co%64e=s", "?%63%6F%64%65=***&co%64e=***"),
        ("?monkey=1&keyboard=1&tokens=1&max_tokens=1&author=1&barcode=1&zip_code=1&design=1&sign=1&page=2&q=code",
         "?monkey=1&keyboard=1&tokens=1&max_tokens=1&author=1&barcode=1&zip_code=1&design=1&sign=1&page=2&q=code"),
        ("?turkey=1&hockey=1&whiskeys=1&smoke=1&token_count=1", "?turkey=1&hockey=1&whiskeys=1&smoke=1&token_count=***"),
        ("?api_keys=s&secrets=s&passwords=s&keys[]=s&access_tokens=s&cookies=s&pw=s",
         "?api_keys=***&secrets=***&passwords=***&keys[]=***&access_tokens=***&cookies=***&pw=***"),
        ("?openaikey=s&GEMINIKEY=s&hapikey=s&mykeys=s&bottoken=s&dbpassword=s", "?openaikey=***&GEMINIKEY=***&hapikey=***&mykeys=***&bottoken=***&dbpassword=***"),
        ("?url=http://user:s@x.test/a&b=1", "?url=http://***@x.test/a&b=1"),
        ("?url=https://s@x.test", "?url=https://***@x.test"),
        ("?url=http://u:s@t@x.test/", "?url=http://***@x.test/"),
        ("?url=http%3A%2F%2Fuser%3As%40x.test%2F&b=1", "?url=***&b=1"),
        ("?url=http://user%3As@x.test/", "?url=http://***@x.test/"),
        ("?mail=a@b.test&t=12:30", "?mail=a@b.test&t=12:30"),
        ('?u={"api_key":"s"}&b=1', "?u=***&b=1"),
        ("?u=%7B%22api_key%22%3A%22s%22%7D&b=1", "?u=***&b=1"),
        ('?u={"page":1}', '?u={"page":1}'),
        ("?url=http://x/?token=s&b=1", "?url=http://x/?token=***&b=1"),
        ("?url=http%3A%2F%2Fx%2F%3Fa%3D1%26token%3Ds&b=1", "?url=***&b=1"),
        ("?url=http%253A%252F%252Fx%252F%253Ftoken%253Ds", "?url=***"),
        ("?token%3Ds&a=1", "?***&a=1"),
        ("?url=http%3A%2F%2Fx%2F%3Fpage%3D1", "?url=http%3A%2F%2Fx%2F%3Fpage%3D1"),
        ("?a=1#token=s", "?a=1#token=***"),
        ("?" + "a" * 300 + "=s", "?" + "a" * 300 + "=***"),
        ("?pat=1&PSK=2&db-pass=3&path=4&sku=5", "?pat=***&PSK=***&db-pass=***&path=4&sku=5"),
        ("?sig=1&signature=2&password=3&apikey=4", "?sig=***&signature=***&password=***&apikey=***"),
    ],
)
def test_values_of_secret_names_are_masked_by_their_place(query: str, masked: str) -> None:
    assert mask_query(query) == masked


def test_configured_names_are_masked_too() -> None:
    assert mask_query("?pass_phrase=x&pass-phrase=y&z=1", {"pass_phrase"}) == "?pass_phrase=***&pass-phrase=***&z=1"
    assert mask_fields([b"X-Team: s3cret"], {"x-team"}) == [b"X-Team: ***"]


@pytest.mark.parametrize(("path", "masked"), [
    ("/a/b;c=d", "/a/b;c=d"), ("/a;jsessionid=S/b", "/a;jsessionid=***/b"), ("/a%3Ftoken%3DS", "/***"), ("/a%2Fb", "/a%2Fb"),
    ("/a;x=1;TOKEN=S;y", "/a;x=1;TOKEN=***"),
])  # fmt: skip
def test_parameters_of_a_path_are_masked_too(path: str, masked: str) -> None:
    assert mask_path(path) == masked


@pytest.mark.parametrize(
    ("path", "masked"),
    [
        ("/proxy/http://user:s@x.test/a", "/proxy/http://***@x.test/a"),
        ("/proxy/http:/user:s@x.test/a", "/proxy/http:/***@x.test/a"),
        ("/proxy/http%3A%2F%2Fuser%3As%40x.test/a", "/proxy/***/a"),
        ("/proxy/http:/user%3As%40x.test/a", "***"),
        ("/@scope/package@1.0", "/@scope/package@1.0"),
        ("/scope:/@package", "/scope:/@package"),
        ('/x/{"token":"s"}/y', "/x/***/y"),
    ],
)
def test_the_user_of_a_url_in_a_path_is_masked(path: str, masked: str) -> None:
    assert mask_path(path) == masked


def test_the_user_of_a_url_in_a_text_is_masked() -> None:
    assert mask_urls("cannot open http://user:s@x.test/ now") == "cannot open http://***@x.test/ now"


@pytest.mark.parametrize("unit", ["a", ":/", ":/a", '"', '"a" ', "'a':", "@", "%3A%2F", "a@:/"])
def test_masking_takes_linear_time(unit: str) -> None:
    assert linear(lambda size: mask_query("?" + unit * size), 200)
    assert linear(lambda size: mask_path("/" + unit * size), 200)


def test_queries_in_texts_and_fields_are_masked_too() -> None:
    assert mask_urls("GET http://x/y?a=1&token=s from b?key=s") == "GET http://x/y?a=1&token=*** from b?key=***"
    assert mask_fields([b"Referer: http://x/?code=s&a=1", b"X-Client-Secret: s", b"X-Tenant: a"]) == [
        b"Referer: http://x/?code=***&a=1", b"X-Client-Secret: ***", b"X-Tenant: a",
    ]


@given(
    st.sampled_from(sorted(SECRET_QUERY)),
    st.text("ab=;+%2560", max_size=8),
    st.text("ab;=%25", max_size=6),
    st.data(),
)
def test_no_spelling_of_a_secret_name_lets_its_value_through(
    name: str, before: str, tail: str, data: st.DataObject
) -> None:
    spelled = "".join(
        data.draw(st.sampled_from([letter, letter.upper(), f"%{ord(letter):02x}", f"%25{ord(letter):02X}"]))
        for letter in name
    )
    assert "S3CRET" not in mask_query(f"?{before}&{spelled}=S3CRET{tail}")


def test_fields_that_carry_credentials_are_masked_in_any_case() -> None:
    lines = [b"Authorization: Bearer s", b"x-API-key:s", b"X_Api_Key: s", b"Cookie : s", b"Accept: */*", b" folded s"]
    assert mask_fields(lines) == [
        b"Authorization: ***", b"x-API-key: ***", b"X_Api_Key: ***", b"Cookie : ***", b"Accept: */*", b"***",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("data", "escaped"),
    [
        (b"/plain/%0a?x=1", "/plain/%0a?x=1"),
        (b'a"b\'c\\d', "a\\x22b\\x27c\\x5cd"),
        (b"\x00\x1b[31m\r\n\x7f\x80\x9f\xa0\xff", "\\x00\\x1b[31m\\x0d\\x0a\\x7f\\x80\\x9f\xa0\xff"),
        ("héllo \u20ac", "héllo \u20ac"),
        ("\u2028\udc80\ud800", "\\u2028\\x80\\ud800"),
    ],
)
def test_text_is_escaped_so_that_one_record_is_one_line(data: bytes | str, escaped: str) -> None:
    assert escape(data) == escaped


@given(st.one_of(st.binary(), st.text(st.characters())))
def test_escaped_text_is_one_printable_line_that_any_writer_can_encode(data: bytes | str) -> None:
    text = escape(data)
    assert len(text.splitlines()) <= 1
    assert not any(ord(letter) < 0x20 or 0x7F <= ord(letter) <= 0x9F or letter in "\"'" for letter in text)
    text.encode("utf-8")


def test_what_needs_no_escape_is_not_copied() -> None:
    text = "plain"
    assert escape(text) is text


def test_a_key_in_a_websocket_subprotocol_is_masked() -> None:
    line = b"Sec-WebSocket-Protocol: realtime,openai-insecure-api-key.sk-1.2 , graphql-ws, v4.channel.k8s.io"
    assert mask_fields([line]) == [
        b"Sec-WebSocket-Protocol: realtime, openai-insecure-api-key.***, graphql-ws, v4.channel.k8s.io"]
