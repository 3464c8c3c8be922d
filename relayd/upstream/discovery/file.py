"""A file with a list of addresses, which other programs replace.

The file holds YAML or JSON: a list with entries like those of `endpoints:` (a URL, or url, weight, priority, limits),
or a mapping with this list under the key endpoints. relayd looks for a new file every `interval` and applies it without
a reload. A file that cannot be read, or contains an error, is refused with file and line, and the previous list stays;
the empty list [] removes all endpoints. Write a new file beside it and rename it over the old one, which is atomic. A
file that is written in place is read once it has not changed for one interval.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from relayd.schema import Duration, section, setting
from relayd.schema.files import FileFault, read_file
from relayd.upstream.discovered import Address, LookupFault, Report, Tools
from relayd.upstream.discovery._threads import in_thread

MOST_BYTES = 1 << 20


@section()
class Options:
    """A watched file with a list of addresses. The service must be able to read it: /etc/relayd or /run/relayd."""

    path: str = setting(doc="Path of the file.", pattern="/.*", example="/etc/relayd/endpoints/ai.yaml")
    interval: Duration = setting(
        default=Duration(1), doc="How often relayd looks whether the file has changed.", minimum=0.1, maximum=3600,
    )


Stamp = tuple[int, int, int]  # inode, size, time of the last change in ns, which one of owner or rights is too


class Discovery:
    """Compares the file's inode, size and time of change."""

    def __init__(self, options: Options, tools: Tools) -> None:
        self._path, self.interval_s = options.path, float(options.interval)
        self._parse = tools.parse_endpoints
        self.source = f"file {options.path}"

    def faults(self) -> Iterable[tuple[str, str]]:
        return ()

    def cautions(self) -> Iterable[tuple[str, str]]:
        try:
            self._read()
        except LookupFault as fault:
            yield "path", f"the upstream has no endpoint until this is corrected: {fault}"

    async def run(self, report: Report) -> None:
        read: Stamp | None = None  # of the contents that were reported
        seen: Stamp | None = None
        is_valid = False  # those contents
        while True:
            try:
                stamp = await in_thread(stamp_of, self._path)
                # The same inode with other contents: the file may be in the middle of being written.
                is_settled = read is None or stamp[0] != read[0] or stamp == seen
                if stamp != read and is_settled:
                    read, is_valid = stamp, False
                    report.found(await in_thread(self._read))
                    is_valid = True
                elif stamp == read and is_valid:
                    report.confirmed()
                seen = stamp
            except LookupFault as fault:
                report.failed(str(fault))
            except OSError as error:
                read = seen = None
                report.failed(f"{self._path} cannot be read: {error.strerror or error}")
            await report.pause(self.interval_s)

    def _read(self) -> tuple[Address, ...]:
        try:
            text, _ = read_file(self._path, MOST_BYTES)
        except FileFault as fault:
            raise LookupFault(f"{self._path} cannot be read: {fault}") from None
        return self._parse(text, self._path)


def stamp_of(path: str) -> Stamp:
    """What changes with the contents of a file. Raises OSError."""
    status = os.stat(path)
    return status.st_ino, status.st_size, status.st_ctime_ns
