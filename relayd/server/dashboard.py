"""The dashboard of the admin application: sign-in, page, files and event stream below /dashboard/.

1. The page is the same for everybody who may see it; what may be done depends on `admin_write` of the route.
2. Nothing inside HTML is made from data. The page gets all texts as JSON, and inserts them as text.
3. Every response has a strict Content-Security-Policy: files of this origin only, no script or style inside HTML, and
   no conversion of texts to HTML (Trusted Types).
4. A sign-in that another site has caused is refused, like an action.
"""

from __future__ import annotations

import hmac
from urllib.parse import parse_qsl

from relayd import __version__
from relayd.access.sessions import LIFETIME_S
from relayd.errors import ExchangeError
from relayd.proxy.application import (
    DASHBOARD,
    SESSION_COOKIE,
    Browser,
    CompletedHandler,
    Handler,
    LocalRequest,
    Responder,
    send_answer,
)
from relayd.proxy.respond import Answer, answer
from relayd.server import pages
from relayd.server.admin_views import JSON, error_page, to_json
from relayd.server.dashboard_feed import DashboardFeed
from relayd.server.stream_places import TooManyStreams, owner_of

ACTIONS = f"{DASHBOARD}/actions"
MAX_FORM = 8 * 1024
READ = ("GET", "HEAD")
RETRY_AFTER_S = 10
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
# Same-origin: with no-referrer, browsers would send the sign-in form with the origin `null`.
SECURITY_FIELDS = (
    ("Content-Security-Policy", CONTENT_SECURITY_POLICY), ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"), ("Referrer-Policy", "same-origin"), ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
)
NOT_STORED = ("Cache-Control", "no-store")
SIGN_IN_NOTES = {
    401: "This key is not known.", 403: "This key has no access to the dashboard.",
    429: "Too many wrong keys came from this address. Try again in a minute.",
}
NOTE_MARK = b"<!-- note -->"


def is_dashboard(path: str) -> bool:
    """True for the paths of the dashboard. Its actions are those of the admin application."""
    return path == DASHBOARD or (path.startswith(f"{DASHBOARD}/") and not path.startswith(f"{ACTIONS}/"))


def lacks_token(request: LocalRequest) -> bool:
    """True if a browser that has signed in requests an action without the token of its session."""
    session = None if request.browser is None else request.browser.session
    if session is None:
        return request.browser is not None
    return not hmac.compare_digest(request.field(b"x-relayd-token") or b"", session.csrf_token.encode())


class Dashboard:
    """Answers the requests for the dashboard. One per process."""

    def __init__(self, feed: DashboardFeed) -> None:
        self._feed = feed

    def __call__(self, request: LocalRequest, responder: Responder) -> Handler:
        """Answer a request, or return the handler that will."""
        name = request.path.removeprefix(DASHBOARD)
        signed_in = request.browser is None or request.browser.session is not None
        if name in ("/sign-in", "/sign-out"):
            return self._sign(name, request, responder)
        if request.method not in READ:
            page = error_page(405, "method_not_allowed", "This page is read-only.")
            return send_answer(responder, secured(*page, ("Allow", "GET, HEAD")))
        if name == "":
            return send_answer(responder, secured(308, "", b"", ("Location", "dashboard/")))
        if name.startswith("/static/"):
            return send_answer(responder, file_answer(request, name.removeprefix("/static/")))
        if name == "/":
            return send_answer(responder, page_answer("dashboard.html" if signed_in else "sign_in.html"))
        if not signed_in:
            page = error_page(401, "unauthorized", "Sign in first.")
            return send_answer(responder, secured(*page, NOT_STORED))
        if name == "/session":
            return send_answer(responder, secured(200, JSON, session_data(request), NOT_STORED))
        if name == "/events":
            return self._events(request, responder)
        return send_answer(responder, secured(*error_page(404, "not_found", "No such page."), NOT_STORED))

    def _events(self, request: LocalRequest, responder: Responder) -> Handler:
        head = secured(200, "text/event-stream; charset=utf-8", b"", NOT_STORED, ("X-Accel-Buffering", "no"))
        head.response.length = None
        if request.method == "HEAD":
            return send_answer(responder, head)
        session = None if request.browser is None else request.browser.session
        try:
            return self._feed.open(responder, head, request.field(b"last-event-id"), session, owner_of(request))
        except TooManyStreams as refused:
            if refused.of_owner:
                page = error_page(429, "too_many_streams", "Too many of your pages are open; close some.")
            else:
                page = error_page(503, "too_many_streams", "Too many dashboards are open; try again later.")
            return send_answer(responder, secured(*page, NOT_STORED, ("Retry-After", str(RETRY_AFTER_S))))

    def _sign(self, name: str, request: LocalRequest, responder: Responder) -> Handler:
        if request.method != "POST":
            page = error_page(405, "method_not_allowed", "This needs the method POST.")
            return send_answer(responder, secured(*page, ("Allow", "POST")))
        browser = request.browser
        if request.cross_site or (name == "/sign-out" and browser is not None and lacks_token(request)):
            page = error_page(403, "cross_site", "A page of another site requested this.")
            return send_answer(responder, secured(*page, NOT_STORED))
        if browser is None:  # a client with a key, or no key is needed
            return send_answer(responder, secured(303, "", b"", ("Location", "./"), NOT_STORED))
        if name == "/sign-out":
            browser.sign_out()
            cookie = cookie_field(browser, "", 0)
            return send_answer(responder, secured(303, "", b"", ("Location", "./"), cookie, NOT_STORED))
        return SignInForm(responder, browser)


class SignInForm(CompletedHandler):
    """A submitted sign-in form: `key` in the format application/x-www-form-urlencoded."""

    def __init__(self, responder: Responder, browser: Browser) -> None:
        self._responder: Responder | None = responder
        self._browser = browser
        self._body = b""

    def feed(self, piece: bytes, last: bool) -> None:
        """Collect the form, and sign in at its end."""
        if self._responder is None:
            return
        self._body += piece
        if len(self._body) > MAX_FORM:
            self._answer(secured(*error_page(413, "body_too_large", "This key is too long."), NOT_STORED))
        elif last:
            self._browser.sign_in(form_value(self._body, "key"), self._on_done)

    def _on_done(self, result: str | ExchangeError) -> None:
        if isinstance(result, str):
            cookie = cookie_field(self._browser, result, int(LIFETIME_S))
            self._answer(secured(303, "", b"", ("Location", "./"), cookie, NOT_STORED))
            return
        status = result.kind.status
        note = SIGN_IN_NOTES.get(status, "Keys cannot be checked now. Try again.")
        self._answer(page_answer("sign_in.html", status, note, result.headers))

    def _answer(self, whole: Answer) -> None:
        responder, self._responder = self._responder, None
        if responder is not None:
            send_answer(responder, whole)

    def close(self) -> None:
        """The client has left, or has its answer."""
        self._responder = None


def form_value(body: bytes, name: str) -> bytes:
    """A value of a form, without white space around it; empty if it is absent."""
    try:
        pairs = parse_qsl(body.decode("ascii"), max_num_fields=8)
    except ValueError:
        return b""
    return next((value.strip().encode() for key, value in pairs if key == name), b"")


def session_data(request: LocalRequest) -> bytes:
    """What the page needs to know of its session: JSON."""
    session = None if request.browser is None else request.browser.session
    return to_json({
        "consumer": request.consumer, "may_write": request.may_write, "signed_in": session is not None,
        "token": "" if session is None else session.csrf_token, "version": __version__,
    })


def cookie_field(browser: Browser, token: str, lifetime_s: int) -> tuple[str, str]:
    """The Set-Cookie field of a session. Without Path, the browser sends the cookie to the dashboard only."""
    secure = "; Secure" if browser.is_secure else ""
    name = SESSION_COOKIE.decode()
    return "Set-Cookie", f"{name}={token}; Max-Age={lifetime_s}; HttpOnly; SameSite=Strict{secure}"


def page_answer(name: str, status: int = 200, note: str = "", fields: tuple[tuple[str, str], ...] = ()) -> Answer:
    """A page. `note` is a text of relayd for the sign-in page."""
    body = (pages.content(name) or b"").replace(NOTE_MARK, f'<p role="alert">{note}</p>'.encode() if note else b"")
    return secured(status, pages.media_type(name), body, NOT_STORED, *fields)


def file_answer(request: LocalRequest, name: str) -> Answer:
    """A file of the page; 304 if the browser has it already (RFC 9110 13.1.2)."""
    body = None if name.endswith(".html") else pages.content(name)
    if body is None:
        return secured(*error_page(404, "not_found", "No such file."), NOT_STORED)
    tag = pages.entity_tag(name)
    fields = (("ETag", tag), ("Cache-Control", "no-cache"))
    if (request.field(b"if-none-match") or b"").removeprefix(b"W/") == tag.encode():
        return secured(304, "", b"", *fields)
    return secured(200, pages.media_type(name), body, *fields)


def secured(status: int, media_type: str, body: bytes, *fields: tuple[str, str]) -> Answer:
    """A response with the fields that restrict what a browser does with it."""
    return answer(status, media_type, body, (*SECURITY_FIELDS, *fields))
