"""The model of a form, found and replaced while the form goes by."""

from __future__ import annotations

import email.parser
import email.policy
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.protocols.multipart import MOST_PARTS, ModelFinder, MultipartError, boundary_of
from tests.aids.growth import linear

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
    """The form with another model in the place at which it was found."""
    finder = ModelFinder(boundary)
    for position in range(0, len(body), size):
        finder.scan(body[position : position + size])
    finder.finish()
    if finder.model is None:
        return body
    return body[: finder.value_offset] + model.encode() + body[finder.value_offset + finder.value_bytes :]


def found(body: bytes, size: int, boundary: bytes = b"bound") -> str | None:
    finder = ModelFinder(boundary)
    for position in range(0, len(body), size):
        finder.scan(body[position : position + size])
    if body:
        finder.finish()
    return finder.model


def test_the_model_is_found_wherever_it_stands_and_however_it_is_cut() -> None:
    for size in range(1, len(WHOLE) + 1):
        assert found(WHOLE, size) == "whisper-1"


def test_it_is_known_as_soon_as_its_delimiter_is() -> None:
    finder = ModelFinder(b"bound")
    first = WHOLE.index(b"whisper-1") + len(b"whisper-1\r\n--bound")
    assert finder.scan(WHOLE[: first - 1]) is None
    assert finder.scan(WHOLE[first - 1 : first]) == "whisper-1"
    assert finder.value_bytes == 9 and finder.scan(WHOLE[first:]) == "whisper-1"


def test_replacing_changes_nothing_but_the_value() -> None:
    expected = WHOLE.replace(b"whisper-1", "größer".encode())
    for size in range(1, len(WHOLE) + 1):
        assert replaced(WHOLE, "größer", size) == expected


def test_a_file_is_never_held_back() -> None:
    finder = ModelFinder(b"bound")
    finder.scan(form(('name="file"; filename="a"', b""))[: -len(b"\r\n--bound--\r\n")])
    for piece in (b"a" * 1000, b"\n" * 1000, b"-" * 1000, b"\r\n\r\n--boun", b"e", b"x" * 5_000_000):
        finder.scan(piece)
        assert len(finder._splitter._buffer) <= len(b"\r\n--boun")


@pytest.mark.parametrize("disposition", [
    'name="model"', "name=model", 'name="Model"', 'name="MODEL"', 'name="mod\\el"', 'name="mod\\\\el"', 'name="mod%65l"',
    'name="model[]"', 'name="model[0]"', 'name=" model"', 'name="mo_del"', 'name="model"; filename="a"',
    "name=\"model\"; filename*=utf-8''a", "name*=utf-8''model", 'name="=?utf-8?q?model?="', 'name="_charset_"',
])  # fmt: skip
def test_a_second_field_that_some_reader_takes_for_the_model_is_a_fault(disposition: str) -> None:
    for body in (form(('name="model"', b"cheap"), (disposition, b"dear")), form((disposition, b"dear"), ('name="model"', b"cheap"))):
        for size in (1, 9, len(body)):
            with pytest.raises(MultipartError):
                found(body, size)
            with pytest.raises(MultipartError):
                replaced(body, "x", size)


@pytest.mark.parametrize(("line", "is_read"), [
    ("Content-Type: text/plain", True), ("Content-Type: text/plain; charset=UTF-8", True), ("Content-Length: 1", True),
    ("Content-Transfer-Encoding: 8bit", True), ("Content-Transfer-Encoding: base64", False),
    ("Content-Transfer-Encoding: quoted-printable", False), ("Content-Type: text/plain; charset=utf-16", False),
    ("Content-Type: application/json", False), ("Content-Type: multipart/mixed; boundary=b", False),
])  # fmt: skip
def test_the_models_value_is_read_only_where_it_is_plain_text(line: str, is_read: bool) -> None:
    body = form(('name="model"', b"m")).replace(b"\r\n\r\n", b"\r\n" + line.encode() + b"\r\n\r\n", 1)
    if is_read:
        assert found(body, 4) == "m"
    else:
        with pytest.raises(MultipartError):
            found(body, 4)


@pytest.mark.parametrize(
    "disposition",
    ['name="file"; filename="model"', 'name="models"', 'name="model_id"', 'name=file', 'name="a\\"; name=\\"model"'],
)  # fmt: skip
def test_other_parts_are_no_model(disposition: str) -> None:
    body = form((disposition, b"other"))
    assert found(body, 3) is None and replaced(body, "x", 3) == body


@pytest.mark.parametrize("disposition", ["name=model", 'NAME="model"', 'name="model";', 'a=b; name="model"'])
def test_other_ways_to_write_the_name_are_read(disposition: str) -> None:
    assert found(form((disposition, b"m")), 5) == "m"


def test_padding_and_blank_lines_around_the_form_pass() -> None:
    body = b"\r\n" + form(('name="model"', b"m"), end=b"-- \r\n\r\n")
    body = body.replace(b"--bound\r\n", b"--bound \t\r\n", 1)
    assert found(body, 2) == "m"
    for size in (1, 2, 3, 100):
        assert replaced(body, "new", size) == body.replace(b"\r\nm\r\n", b"\r\nnew\r\n")


@pytest.mark.parametrize("body", [
    b'{"model":"dear"}\r\n' + form(('name="model"', b"m")), b"This is\r\na preamble\r\n" + form(('name="model"', b"m")),
    form(('name="model"', b"m"), end=b"-- \r\nepilogue"),
    form(('name="model"', b"m"), end=b"--\r\n--bound\r\nContent-Disposition: form-data; name=model\r\n\r\ndear\r\n--bound--"),
])  # fmt: skip
def test_what_stands_around_the_form_may_be_another_body_for_some_reader(body: bytes) -> None:
    for size in (1, 3, 16, len(body)):
        with pytest.raises(MultipartError):
            found(body, size)


def test_a_part_without_header_and_an_empty_value_are_parts() -> None:
    body = b"--bound\r\n\r\nx\r\n" + form(('name="model"', b""))
    assert found(body, 1) == "" and replaced(body, "m", 1) == b"--bound\r\n\r\nx\r\n" + form(('name="model"', b"m"))


def test_a_form_without_a_model_is_over_without_one() -> None:
    finder = ModelFinder(b"bound")
    assert finder.scan(form(('name="a"', b"b"))) is None and finder.is_complete
    finder.finish()
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
        (b"--bound\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n--c\r\n", "nested"),
        (form(('name="a"\r\ncontent-type:  Multipart/Form-Data; boundary=c', b"m")), "nested"),
    ],
)
def test_what_could_be_read_in_two_ways_is_a_fault(body: bytes, rule: str) -> None:
    for size in (1, 5, len(body)):
        with pytest.raises(MultipartError) as fault:
            found(body, size)
        assert fault.value.rule == rule


def test_a_form_has_at_most_a_thousand_parts_like_those_of_servers() -> None:
    """A part of 8 bytes costs as much as one of a megabyte: 100,000 of them in one read took 30 ms."""
    for part, end in ((b"--b\r\n\r\n\r\n", b"--b--\r\n"), (b"--b\r\nContent-Disposition: form-data; name=x\r\n\r\n\r\n", b"--b--\r\n")):
        assert found(part * MOST_PARTS + end, 65536, b"b") is None
        finder = ModelFinder(b"b")
        with pytest.raises(MultipartError, match="parts"):
            finder.scan(part * (MOST_PARTS + 1))


def test_the_parameters_of_a_field_cost_linear_time() -> None:
    def read(count: int) -> None:
        text = "".join(f"; a{number}=b" for number in range(count))
        assert boundary_of(f"multipart/form-data; boundary=x{text}") == b"x"

    assert linear(read, 400)


def test_a_form_that_was_cut_is_a_fault() -> None:
    for body in (b"--bound\r\nContent-Disp", form(('name="model"', b"m"))[:-12], form(('name="a"', b"m"))[:-4]):
        with pytest.raises(MultipartError, match="cut"):
            replaced(body, "x", 3)
        with pytest.raises(MultipartError, match="cut"):
            found(body, 3)


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
def test_the_boundary_is_read_from_the_content_type(content_type: str, boundary: bytes | None) -> None:
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
    fields = [(name, value.hex().encode() if name == "model" else value) for name, value in fields]
    model_places = [position for position, (name, _) in enumerate(fields) if name == "model"]
    fields = [field for position, field in enumerate(fields) if position not in model_places[1:]]
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
