"""Numbers of libcurl become words of the catalogue."""

from __future__ import annotations

import errno
import resource
import socket

import pycurl
import pytest

from relayd.errors import KINDS, Fault
from relayd.upstream.transport.faults import (
    NO_RESOURCES,
    REWIND,
    code_of,
    is_exhaustion,
    is_unprocessed,
    lacks_resources,
)


@pytest.mark.parametrize(("code", "errnos"), [
    ("connect_failed", [pycurl.E_COULDNT_RESOLVE_PROXY, pycurl.E_COULDNT_RESOLVE_HOST, pycurl.E_COULDNT_CONNECT]),
    ("connect_timeout", [pycurl.E_OPERATION_TIMEDOUT]),
    ("tls_failed", [pycurl.E_SSL_CONNECT_ERROR, 60, pycurl.E_SSL_CACERT_BADFILE, 90, pycurl.E_SSL_CIPHER, 58]),
    ("upstream_closed", [pycurl.E_GOT_NOTHING, pycurl.E_SEND_ERROR, pycurl.E_RECV_ERROR, REWIND]),
    ("upstream_cut", [pycurl.E_PARTIAL_FILE]),
    ("upstream_malformed", [1, 8, pycurl.E_WRITE_ERROR, 27, pycurl.E_BAD_CONTENT_ENCODING, 100, 16]),
])
def test_every_known_number_has_its_word(code: str, errnos: list[int]) -> None:
    assert [code_of(errno) for errno in errnos] == [code] * len(errnos)


def test_every_number_gets_an_entry_of_the_catalogue() -> None:
    assert {code_of(errno) for errno in range(1, 120)} <= set(KINDS)


def test_only_what_surely_sent_nothing_may_be_tried_again() -> None:
    retryable = {errno for errno in range(1, 120) if KINDS[code_of(errno)].retryable}
    assert {6, 7, 28, 35, 60} <= retryable and not retryable & {18, 52, 55, 56, REWIND, 23, 8, 16, 92}


@pytest.mark.parametrize(("errno", "message", "unprocessed"), [
    (REWIND, "seek callback returned error 1", True),
    (REWIND, "Recv failure: Connection reset by peer", False),
    (REWIND, "Send failure: Broken pipe", False),
    (REWIND, "", False),
    (16, "nghttp2 shuts down connection with error 9: COMPRESSION_ERROR", False),
    (16, "", pycurl.version_info()[2] < 0x080500),  # newer ones say it of a connection that just ended
    (92, "HTTP/2 stream 7 reset by server (error 0x2 INTERNAL_ERROR)", False),
    (56, "seek callback returned error 1", False),
    (0, "", False),
])
def test_a_refusal_is_told_apart_from_a_connection_that_broke(errno: int, message: str, unprocessed: bool) -> None:
    assert is_unprocessed(errno, message) is unprocessed


def test_a_lack_of_resources_is_relayds_own_fault_that_nothing_has_acted_on() -> None:
    kind = KINDS[code_of(NO_RESOURCES)]
    assert (kind.status, kind.fault, kind.retryable) == (503, Fault.RELAYD, True)


@pytest.mark.parametrize("os_errno", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
def test_the_kernels_word_about_its_resources_decides(os_errno: int) -> None:
    assert lacks_resources(pycurl.E_COULDNT_CONNECT, os_errno) and is_exhaustion(OSError(os_errno, "none"))


@pytest.mark.parametrize(("number", "os_errno"), [
    (pycurl.E_COULDNT_CONNECT, errno.ECONNREFUSED), (pycurl.E_COULDNT_CONNECT, errno.EADDRNOTAVAIL),
    (pycurl.E_COULDNT_RESOLVE_HOST, 0), (pycurl.E_SSL_CACERT_BADFILE, 0), (pycurl.E_RECV_ERROR, errno.ECONNRESET),
])
def test_an_endpoint_that_fails_while_descriptors_are_free_is_at_fault(number: int, os_errno: int) -> None:
    assert not lacks_resources(number, os_errno)
    assert not is_exhaustion(ConnectionRefusedError(errno.ECONNREFUSED, "refused"))
    assert not is_exhaustion(socket.gaierror(socket.EAI_NONAME, "unknown"))
    assert not is_exhaustion(OSError(errno.EBUSY, "Device or resource busy"))


@pytest.mark.parametrize("error", [
    socket.gaierror(socket.EAI_NONAME, "unknown"), OSError(errno.EBUSY, "Device or resource busy"),  # libnss-mdns says the latter
])
def test_a_resolver_that_fails_while_no_descriptor_is_free_is_not_the_endpoints_fault(error: OSError) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        found = is_exhaustion(error)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert found
