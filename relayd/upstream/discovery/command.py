"""The addresses that a program prints, which relayd runs every `interval` and when an endpoint cannot be reached.

The program prints one address per line, as a URL or as host:port (plain HTTP); empty lines and lines that begin with #
are ignored. Or it prints JSON or YAML in brackets or braces: a list as under `endpoints:`. Output that is empty means: no
endpoint. A status other than 0, output with an error or of more than 64 KiB, and a program that is slower than `timeout`
leave the previous addresses in use; the last line of its error output is shown in the log and in status.

The program is started without a shell, with PATH, LANG, RELAYD_RUN and `environment` as its only variables, without input, in
the folder /, as the user of relayd and inside the sandbox of its service: it cannot become another user (sudo does not work),
write outside /run/relayd and /var/lib/relayd, or see /home. `user` is therefore refused in relayd.service, because a
service that may become any user is root; it works if relayd itself runs as root (`relayd run` in a container). A program that
needs another user is run by a systemd timer with that user, and gives its result to `relayd endpoint set` or writes the file
of `discovery: {file: ...}`. After `timeout` it is killed with all processes that it has
started, also those in sessions of their own (setsid): relayd finds them by the variable RELAYD_RUN, so only a process that
has cleared its environment and left the process group survives.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping

from relayd.lazy_regex import lazy_regex
from relayd.schema import Duration, section, setting
from relayd.upstream.discovered import Address, LookupFault, Report, Tools
from relayd.upstream.discovery import _programs
from relayd.upstream.discovery._threads import in_thread
from relayd.upstream.discovery._urls import backoff_s

MOST_BYTES = 64 * 1024
_HOST_AND_PORT = lazy_regex(r"(?:\[[0-9a-fA-F:.]+\]|[A-Za-z0-9_.\-]+):[0-9]{1,5}", re.ASCII)
_VARIABLE = lazy_regex(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


@section()
class Options:
    """A program that prints addresses."""

    argv: tuple[str, ...] = setting(doc="Path of the program, and its arguments. No shell reads them.", example=["/usr/local/bin/where-is", "ai"])
    interval: Duration = setting(default=Duration(30), doc="Time from the end of one run to the next. After failures it begins with a second and doubles up to this.", minimum=0.1, maximum=86400)
    timeout: Duration = setting(default=Duration(10), doc="How long one run may take.", minimum=0.1, maximum=3600)
    environment: Mapping[str, str] = setting(factory=dict, doc="Further environment variables of the program. They are visible to other processes of the user: no place for keys.")

    user: str | None = setting(default=None, doc="User of the program, with the groups of this user; by default the user of relayd. Only a relayd that runs as root can start a program as another user.", pattern=r"[A-Za-z_][A-Za-z0-9_.\-]{0,31}", example="dokku")

    def check(self) -> Iterable[tuple[str, str]]:
        if self.argv and not self.argv[0].startswith("/"):
            yield "argv[0]", "needs the absolute path of a program"
        yield from ((f"environment.{name}", "is not the name of a variable") for name in self.environment if _VARIABLE.fullmatch(name) is None)
        yield from ((f"argv[{index}]", "contains a NUL") for index, text in enumerate(self.argv) if "\0" in text)


class Discovery:
    """Runs the program again and again."""

    def __init__(self, options: Options, tools: Tools) -> None:
        self._options, self._parse = options, tools.parse_endpoints
        self.interval_s = float(options.interval)
        self.source = f"command {' '.join(options.argv)}"[:200]

    def faults(self) -> Iterable[tuple[str, str]]:
        if self._options.user is not None:
            try:
                _programs.account(self._options.user)
            except LookupFault as fault:
                yield "user", f"{fault}; run the program by a systemd timer with that user instead, and let it call relayd endpoint set"

    def cautions(self) -> Iterable[tuple[str, str]]:
        program = self._options.argv[0]
        if not os.path.isfile(program):
            yield "argv[0]", f"{program} does not exist"
        elif not os.access(program, os.X_OK, effective_ids=True):
            yield "argv[0]", f"{program} is not executable"

    async def run(self, report: Report) -> None:
        options, failures = self._options, 0
        interval_s = float(options.interval)
        while True:
            try:
                user = await in_thread(_programs.account, options.user) if options.user is not None else None
                output = await _programs.run(options.argv, float(options.timeout), MOST_BYTES, options.environment, user)
                report.found(await in_thread(self._addresses, output))
                failures = 0
            except LookupFault as fault:
                failures += 1
                report.failed(str(fault))
            await report.pause(backoff_s(failures, min(1.0, interval_s), interval_s) if failures else interval_s)

    def _addresses(self, output: bytes) -> tuple[Address, ...]:
        """The addresses in the output. Raises LookupFault."""
        if output.lstrip()[:1] in (b"[", b"{"):
            return self._parse(output, f"output of {self._options.argv[0]}")
        found = []
        for number, line in enumerate(output.decode("utf-8", "replace").splitlines(), start=1):
            text = line.strip()
            if not text or text.startswith("#"):
                continue
            if _HOST_AND_PORT.fullmatch(text):
                text = f"http://{text}"
            elif not text.startswith(("http://", "https://", "unix:")):
                raise LookupFault(f"output of {self._options.argv[0]}:{number}: is neither a URL nor host:port")
            found.append(text)
        if not found:
            return ()
        return self._parse(("\n".join(f"- '{text}'" for text in found)).encode(), f"output of {self._options.argv[0]}")
