"""Content-Encoding taken off."""

from __future__ import annotations

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.wire import decoding
from relayd.wire.decoding import BadEncoding, Decoder


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


PACKERS = {"gzip": gzip.compress, "x-gzip": gzip.compress, "deflate": zlib.compress, "identity": bytes, "": bytes}


@given(st.sampled_from([*PACKERS.items(), ("deflate", raw_deflate), ("GZIP ", gzip.compress)]), st.binary(), st.integers(1, 9))
def test_whatever_the_cut_the_bytes_come_back(packing: tuple[str, object], data: bytes, size: int) -> None:
    coding, pack = packing
    packed = pack(data)  # type: ignore[operator]
    decoder = Decoder(coding)
    found = b"".join(decoder.feed(packed[at : at + size]) for at in range(0, len(packed), size))
    assert found == data


@pytest.mark.parametrize(("coding", "data"), [("gzip", b"no gzip"), ("deflate", b"\x78\x9cno"), ("br", b"x"), ("zstd", b"x")])
def test_what_cannot_be_read_is_said(coding: str, data: bytes) -> None:
    decoder = Decoder(coding)
    with pytest.raises(BadEncoding):
        decoder.feed(data)
        decoder.feed(b"more")


def test_a_bomb_is_stopped_before_it_is_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "MAX_BYTES", 1000)
    with pytest.raises(BadEncoding, match="decodes to more than"):
        Decoder("gzip").feed(gzip.compress(bytes(10_000_000)))


@given(st.sampled_from([*PACKERS.items(), ("deflate", raw_deflate)]), st.binary(max_size=300), st.integers(1, 300), st.integers(1, 64))
def test_a_bound_on_one_call_loses_nothing(packing: tuple[str, object], data: bytes, times: int, most: int) -> None:
    coding, pack = packing
    packed = pack(data * times)  # type: ignore[operator]
    decoder = Decoder(coding)
    found = [decoder.feed(packed, most)]
    while decoder.has_more:
        found.append(decoder.feed(b"", most))
    assert b"".join(found) == data * times
    assert coding in ("", "identity") or max(map(len, found)) <= most
