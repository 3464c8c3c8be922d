"""The admin application without a socket: allowed methods, the start of an action, and its response."""

from __future__ import annotations

import asyncio
import io

import pytest

from relayd.proxy.application import Handler, LocalRequest
from relayd.proxy.gateway import Gateway
from relayd.server.admin_application import MAX_BODY, AdminApplication
from relayd.server.admin_views import AdminViews, ProcessState, ReloadResult
from relayd.telemetry.settings import TelemetrySettings
from relayd.telemetry.telemetry import Telemetry
from relayd.upstream.transport.client import StreamClient
from tests.unit.proxy.harness import until
from tests.unit.server.recording_responder import RecordingResponder


class Application:
    """The application with one action, whose outcome the test decides."""

    def __init__(self) -> None:
        self.telemetry = Telemetry.build(TelemetrySettings(access_format="off"), io.StringIO())
        self.client = StreamClient(force_instance=True)
        gateway = Gateway(self.client, self.telemetry)
        self.begun = 0
        self.outcome: asyncio.Future[ReloadResult] = asyncio.get_running_loop().create_future()
        views = AdminViews(gateway, self.telemetry, ProcessState("relayd.yaml", phase="serving"))
        self.admin = AdminApplication(views, {"/reload": self.reload})

    async def reload(self) -> ReloadResult:
        self.begun += 1
        return await self.outcome

    def ask(self, method: str, path: str, *, write: bool = True, cross: bool = False) -> tuple[RecordingResponder, Handler]:
        responder = RecordingResponder()
        return responder, self.admin(LocalRequest(method, path, write, cross), responder)

    def close(self) -> None:
        self.client.close()
        self.telemetry.close()


def status_of(responder: RecordingResponder) -> int:
    assert responder.response is not None and responder.ended
    return responder.response.status


@pytest.mark.parametrize(("method", "path", "write", "wanted", "allow"), [
    ("POST", "/reload", False, 403, ""), ("GET", "/reload", True, 405, "POST"), ("PUT", "/reload", True, 405, "POST"),
    ("DELETE", "/upstreams/a/endpoints/b/drain", True, 405, "POST"), ("POST", "/upstreams/a", False, 403, ""),
    ("PATCH", "/status", True, 405, "GET, HEAD"), ("OPTIONS", "/ping", True, 405, "GET, HEAD"),
    ("POST", "/events", True, 405, "GET, HEAD"), ("PUT", "/nothing", True, 404, ""),
])
async def test_a_method_that_a_path_does_not_have_is_refused_with_those_it_has(
    method: str, path: str, write: bool, wanted: int, allow: str
) -> None:
    application = Application()
    responder, _ = application.ask(method, path, write=write)
    assert status_of(responder) == wanted
    assert responder.response is not None and responder.response.get(b"allow") == allow
    application.close()


async def test_a_page_of_another_site_cannot_request_an_action() -> None:
    application = Application()
    for path in ("/reload", "/upstreams/a/endpoints/b/drain"):
        assert status_of(application.ask("POST", path, cross=True)[0]) == 403
    assert status_of(application.ask("GET", "/status", cross=True)[0]) == 200
    await asyncio.sleep(0)
    assert not application.begun
    application.close()


async def test_an_action_begins_when_its_request_is_whole_and_its_outcome_is_the_answer() -> None:
    application = Application()
    responder, handler = application.ask("POST", "/reload")
    handler.feed(b"{", False)
    await asyncio.sleep(0)
    assert not application.begun and not responder.ended
    handler.feed(b"}", True)
    await until(lambda: application.begun)
    assert not responder.ended
    application.outcome.set_result(ReloadResult(False, 3, findings=("bad",)))
    await until(lambda: responder.ended)
    assert status_of(responder) == 422 and b'"bad"' in responder.written
    application.close()


async def test_the_body_of_an_action_is_bounded() -> None:
    application = Application()
    responder, handler = application.ask("POST", "/reload")
    handler.feed(b"x" * MAX_BODY, False)
    assert not responder.ended
    handler.feed(b"x", False)
    handler.close()
    assert status_of(responder) == 413
    handler.feed(b"", True)
    assert not application.begun
    application.close()


async def test_an_action_that_has_begun_is_finished_when_its_client_leaves() -> None:
    application = Application()
    responder, handler = application.ask("POST", "/reload")
    handler.feed(b"", True)
    await until(lambda: application.begun)
    handler.close()
    application.outcome.set_result(ReloadResult(True, 2))
    await until(lambda: not asyncio.all_tasks() - {asyncio.current_task()})
    assert not application.outcome.cancelled() and not responder.ended and not responder.failed
    application.close()


async def test_an_action_that_fails_is_an_error_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    application = Application()
    responder, handler = application.ask("POST", "/reload")
    handler.feed(b"", True)
    application.outcome.set_exception(ValueError("a fault"))
    await until(lambda: responder.failed)
    assert "a fault" in caplog.text
    application.close()
