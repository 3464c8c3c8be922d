"""The model of a form, found and replaced while the form goes by."""

from __future__ import annotations

import email.parser
import email.policy
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.protocols._multipart import ModelFinder, ModelReplacer, MultipartError, boundary_of

FILE = b"RIFF\r\n--\r\n-\r\n--bou\r\n--other\x00\xff" * 3


def form(*parts: tuple[str, bytes], boundary: bytes = b"bound", end: bytes = b"--\r\n") -> bytes:
    body = b""
    for disposition, value in parts:
        body += b"--" + boundary + b"\r\nContent-Disposition: form-data; " + disposition.encode() + b"\r\n\r\n"
        body += value + b"\r\n"
    return body + b"--" + boundary + end


WHOLE = form(
    ('name="file"; filename="a.wav"', FILE), ('name="model"', b"whisper-1"), ('name="prompt"', "Grüße".encode())
)


def replaced(body: bytes, model: str, size: int, boundary: bytes = b"bound") -> bytes:
    replacer = ModelReplacer(boundary, model)
    out = b"".join(replacer.feed(body[place : place + size]) for place in range(0, len(body), size))
    return out + replacer.end()


def found(body: bytes, size: int, boundary: bytes = b"bound") -> str | None:
    finder = ModelFinder(boundary)
    for place in range(0, len(body), size):
        finder.feed(body[place : place + size])
    return finder.model


def test_the_model_is_found_wherever_it_stands_and_however_it_is_cut() -> None:
    for size in range(1, len(WHOLE) + 1):
        assert found(WHOLE, size) == "whisper-1"


def test_it_is_known_as_soon_as_its_delimiter_is() -> None:
    finder = ModelFinder(b"bound")
    first = WHOLE.index(b"whisper-1") + len(b"whisper-1\r\n--bound")
    assert finder.feed(WHOLE[: first - 1]) is None
    assert finder.feed(WHOLE[first - 1 : first]) == "whisper-1"
    assert finder.value_bytes == 9 and finder.feed(b"anything at all") == "whisper-1"


def test_replacing_changes_nothing_but_the_value() -> None:
    expected = WHOLE.replace(b"whisper-1", "größer".encode())
    for size in range(1, len(WHOLE) + 1):
        assert replaced(WHOLE, "größer", size) == expected


def test_a_file_is_never_held_back() -> None:
    replacer = ModelReplacer(b"bound", "x")
    head = form(('name="file"; filename="a"', b""))[: -len(b"\r\n--bound--\r\n")]
    assert replacer.feed(head) == head
    for piece in (b"a" * 1000, b"\n" * 1000, b"-" * 1000, b"\r\n\r\n--boun", b"e"):
        out = replacer.feed(piece)
        assert len(out) >= len(piece) - len(b"\r\n--boun")
    assert replacer.feed(b"x" * 5_000_000).endswith(b"x" * 5_000_000)


def test_every_field_of_the_name_gets_the_same_model() -> None:
    body = form(('name="model"', b"cheap"), ('name="model"', b"dear"))
    assert found(body, 7) == "cheap"
    assert replaced(body, "cheap", 7) == form(('name="model"', b"cheap"), ('name="model"', b"cheap"))


@pytest.mark.parametrize(
    "disposition",
    ['name="file"; filename="model"', 'name="Model"', 'name="models"', 'filename="a"; name="model"', 'name=file',
     'name="a\\"; name=\\"model"'],
)  # fmt: skip
def test_other_parts_are_no_model(disposition: str) -> None:
    body = form((disposition, b"other"))
    assert found(body, 3) is None and replaced(body, "x", 3) == body


@pytest.mark.parametrize("disposition", ["name=model", 'NAME="model"', 'name="model";', 'a=b; name="mod\\el"'])
def test_other_ways_to_write_the_name_are_read(disposition: str) -> None:
    assert found(form((disposition, b"m")), 5) == "m"


def test_preamble_padding_and_epilogue_pass() -> None:
    body = b"This is\r\na preamble\r\n" + form(('name="model"', b"m"), end=b"-- \r\nepilogue --bound\r\n\r\n--bound")
    body = body.replace(b"--bound\r\n", b"--bound \t\r\n", 1)
    assert found(body, 2) == "m"
    for size in (1, 2, 3, 100):
        assert replaced(body, "new", size) == body.replace(b"\r\nm\r\n", b"\r\nnew\r\n")


def test_a_part_without_header_and_an_empty_value_are_parts() -> None:
    body = b"--bound\r\n\r\nx\r\n" + form(('name="model"', b""))
    assert found(body, 1) == "" and replaced(body, "m", 1) == b"--bound\r\n\r\nx\r\n" + form(('name="model"', b"m"))


def test_a_form_without_a_model_is_over_without_one() -> None:
    finder = ModelFinder(b"bound")
    assert finder.feed(form(('name="a"', b"b"))) is None and finder.is_over
    assert found(b"", 1) is None


@pytest.mark.parametrize(
    ("body", "rule"),
    [
        (form(('name="model"', b"x" * 1025)), "value_size"),
        (form(('name="model"', b"\xff")), "value"),
        (b"--bound\r\nX: " + b"y" * 20000, "header_size"),
        (b"--boundX\r\n", "delimiter"),
        (b"--bound\n", "delimiter"),
        (form(('name="a"', b"b\n--bound")), "delimiter"),
        (form(('name="a"', b"b\r--bound\r\n")), "delimiter"),
        (form(('name="a"', b"b\n--boundx")), "delimiter"),
        (b"--bound" + b" " * 100, "delimiter"),
        (b"--bound\r\nA: b\nContent-Disposition: form-data; name=model\r\n\r\n", "header_line"),
        (b"--bound\r\nContent-Disposition: form-data;\r\n name=model\r\n\r\n", "header_line"),
        (b"--bound\r\nContent-Disposition: attachment; name=model\r\n\r\n", "disposition"),
        (b"--bound\r\nContent-Disposition : form-data; name=model\r\n\r\n", "disposition"),
        (form(('name="a"; name="model"', b"m")), "disposition"),
        (form(("name*=utf-8''model", b"m")), "disposition"),
        (form(('name="model', b"m")), "disposition"),
    ],
)
def test_what_could_be_read_in_two_ways_is_a_fault(body: bytes, rule: str) -> None:
    for size in (1, 5, len(body)):
        with pytest.raises(MultipartError) as fault:
            found(body, size)
        assert fault.value.rule == rule


def test_a_form_that_was_cut_gives_back_what_was_held_but_no_half_model() -> None:
    assert replaced(b"--bound\r\nContent-Disp", "x", 3) == b"--bound\r\nContent-Disp"
    with pytest.raises(MultipartError):
        replaced(form(('name="model"', b"m"))[:-12], "x", 3)


def test_a_model_with_line_ends_cannot_be_put_in() -> None:
    with pytest.raises(ValueError):
        ModelReplacer(b"bound", "a\r\n--bound--")


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        ("multipart/form-data; boundary=abc", b"abc"),
        ('Multipart/Form-Data; charset=utf-8; Boundary="a b:c"', b"a b:c"),
        ("multipart/form-data;boundary=----WebKitFormBoundaryABC ;", b"----WebKitFormBoundaryABC"),
        ("multipart/form-data; boundary=a; boundary=b", None),
        ("multipart/form-data; boundary=", None),
        ('multipart/form-data; boundary="a', None),
        ('multipart/form-data; boundary="a "', None),
        ("multipart/form-data; boundary=\xfc", None),
        ("multipart/form-data", None),
        ("multipart/mixed; boundary=a", None),
        ("application/json", None),
        ("", None),
    ],
)
def test_the_boundary_is_what_the_content_type_says(content_type: str, boundary: bytes | None) -> None:
    assert boundary_of(content_type) == boundary


VALUES = st.binary(max_size=60).filter(lambda value: b"--b" not in value)
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=20)
NEARLY = st.lists(st.sampled_from([b"\r", b"\n", b"-", b"--b", b"b", b"ound", b"\r\n--", b"x"]), max_size=12).map(b"".join)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["model", "file", "prompt"]), VALUES | NEARLY), max_size=4),
    TEXTS,
    st.integers(1, 50),
)
def test_an_independent_reader_finds_the_new_model_and_everything_else_as_it_was(fields: Any, model: str, size: int) -> None:
    fields = [(name, value) for name, value in fields if not re.search(b"[\r\n]--bound", b"\n" + value)]
    body = form(*[(f'name="{name}"', value) for name, value in fields])
    out = replaced(body, model, size)
    assert out == replaced(body, model, len(body))
    expected = [(name, model.encode() if name == "model" else value) for name, value in fields]
    assert out == form(*[(f'name="{name}"', value) for name, value in expected])
    if fields:
        head = b"Content-Type: multipart/form-data; boundary=bound\r\n\r\n"
        message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + out)
        names = [part.get_param("name", header="content-disposition") for part in message.iter_parts()]
        assert names == [name for name, _ in fields]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([
    b"--bound", b"\r\n", b"--", b"\r", b"\n", b"Content-Disposition: form-data; ", b'name="model"', b"x", b" ", b":", b'"',
]), max_size=25).map(b"".join), st.integers(1, 9))  # fmt: skip
def test_any_bytes_give_the_same_however_they_are_cut(body: bytes, size: int) -> None:
    def run(step: int) -> tuple[object, ...]:
        try:
            return found(body, step), replaced(body, "new", step)
        except MultipartError as fault:
            return (fault.rule,)

    assert run(size) == run(max(1, len(body)))
