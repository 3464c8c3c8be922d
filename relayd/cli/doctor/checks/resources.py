"""Descriptors, memory, disk and sockets of the machine, against what the configuration may need."""

from __future__ import annotations

import os
import re
import resource
from collections.abc import AsyncGenerator, Iterator
from typing import Any

from relayd.cli.admin_client import Unreachable
from relayd.cli.diagnosis import UNKNOWN, WARNING, Finding, failure, fine, unknown, warning
from relayd.cli.doctor.examination import Context
from relayd.cli.output import amount
from relayd.config.model import Config
from relayd.daemon.generations import SYSTEM_STATE
from relayd.daemon.port_owner import LISTEN
from relayd.server.sockets import split

NEEDS_CONFIGURATION = True
FEW_DESCRIPTORS = 4096
DESCRIPTORS_PER_CONNECTION, RESERVED = 2, 64
IDLE_BYTES = 60 << 20
FACTOR = 2  # request buffers and the translated copies beside them, as in the handbook's section Sizing
LOW_DISK = 64 << 20
USED = 0.8


async def run(context: Context) -> AsyncGenerator[Finding, None]:
    try:
        status = await context.page("/status")
    except Unreachable:
        status = {}
    pid = int(status.get("pid", 0))
    for findings in (
        descriptors(read(f"/proc/{pid or 'self'}/limits"), pid, context.config),
        used_descriptors(read("/proc/sys/fs/file-nr")),
        memory(read("/proc/meminfo"), read(f"/proc/{pid}/status") if pid else "", context.config),
        disk(folders_of(context, status)), sockets(context.config),
    ):
        for finding in findings:
            yield finding


def read(path: str) -> str:
    """A file of /proc; empty if it cannot be read."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read(1 << 20)
    except OSError:
        return ""


def descriptors(limits: str, pid: int, config: Config) -> Iterator[Finding]:
    """The limit of open files; `limits` is the text of /proc/PID/limits."""
    found = re.search(r"Max open files +(\d+) +(\d+)", limits)
    hard = int(found[2]) if found else resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    whose = f"of the running relayd (pid {pid})" if pid else "of this shell, not of the service,"
    wanted = config.daemon.connections * DESCRIPTORS_PER_CONNECTION + RESERVED if config.daemon.connections else 0
    cure = "systemctl edit relayd: LimitNOFILE=65536"
    if wanted > hard:
        cause = f"the limit {whose} is {hard}, but daemon.connections needs {wanted}"
        yield Finding(WARNING if pid else UNKNOWN, "descriptors", cause, cure)
    elif hard < FEW_DESCRIPTORS:
        cause = f"the limit {whose} is {hard}: about {hard // DESCRIPTORS_PER_CONNECTION} streams"
        yield Finding(WARNING if pid else UNKNOWN, "descriptors", cause, cure)
    else:
        yield fine("descriptors", f"the limit {whose} is {hard}")


def used_descriptors(file_nr: str) -> Iterator[Finding]:
    """The descriptors of the whole machine, from the text of /proc/sys/fs/file-nr."""
    parts = file_nr.split()
    if len(parts) == 3 and int(parts[0]) > USED * int(parts[2]):
        cause = f"{parts[0]} of {parts[2]} open files of the machine are in use"
        yield failure("descriptors", cause, "raise fs.file-max, or find the process: lsof | cut -d' ' -f1 | uniq -c")


def memory(meminfo: str, status: str, config: Config) -> Iterator[Finding]:
    """The memory of the machine, and of the running relayd from the text of /proc/PID/status."""
    values = {name: int(size) << 10 for name, size in re.findall(r"(?m)^(\w+):[ \t]+(\d+) kB", f"{meminfo}\n{status}")}
    total, available, used = values.get("MemTotal", 0), values.get("MemAvailable", 0), values.get("VmRSS", 0)
    if not total:
        yield unknown("memory", "/proc/meminfo cannot be read")
        return
    bodies = int(config.daemon.request_buffers.size)
    needs = IDLE_BYTES + FACTOR * bodies
    own = f", relayd uses {amount(used)}" if used else ""
    if not bodies:
        cause = "the memory for request bodies has no limit (daemon.request_buffers)"
        yield warning("memory", cause, "set daemon.request_buffers to a share of the machine's memory")
    elif needs > total:
        cause = f"request bodies may need {amount(needs)}, the machine has {amount(total)}"
        yield warning("memory", cause, "lower daemon.request_buffers")
    if available < total // 20:
        cause = f"only {amount(available)} of {amount(total)} are available{own}"
        yield warning("memory", cause, "ps -eo rss,comm --sort=-rss | head shows who uses it")
    else:
        yield fine("memory", f"{amount(available)} of {amount(total)} are available{own}")


def folders_of(context: Context, status: dict[str, Any]) -> list[str]:
    """The existing folders in which relayd writes. `status` is that of the running one, empty without one."""
    found = [SYSTEM_STATE] if context.is_installed else []
    if spend := status.get("spend"):
        found.append(os.path.dirname(spend["file"]))
    if (file := context.config.telemetry.access_log.file) is not None:
        found.append(os.path.dirname(file))
    return [folder for folder in dict.fromkeys(found) if os.path.isdir(folder)]


def disk(folders: list[str]) -> Iterator[Finding]:
    """Free space of the folders in which relayd writes."""
    for folder in folders:
        found = os.statvfs(folder)
        free = found.f_bavail * found.f_frsize
        if found.f_flag & os.ST_RDONLY:
            yield failure(folder, "its file system is read-only", f"findmnt -T {folder}; dmesg shows why")
        elif free < LOW_DISK or (found.f_files and found.f_favail == 0):
            yield failure(folder, f"its file system is full: {amount(free)} are free", f"df -hi {folder}")
        else:
            yield fine(folder, f"{amount(free)} are free")


def sockets(config: Config) -> Iterator[Finding]:
    """The queues of the kernel for new connections, and the table of tracked connections."""
    most, wanted = read("/proc/sys/net/core/somaxconn").strip(), max(one.backlog for one in config.listeners.values())
    ports = {split(one.address)[2] for one in config.listeners.values()} - {0}
    longest = longest_queue(read("/proc/net/tcp") + read("/proc/net/tcp6"), ports)
    effective = min(wanted, int(most)) if most.isdigit() else wanted
    if longest > effective // 2:
        cause = f"{longest} connections wait to be accepted, the queue holds {effective}"
        yield warning("sockets", cause, "relayd status; add an instance, or raise daemon.connections")
    elif effective < wanted:
        cause = f"net.core.somaxconn limits the queue of new connections to {most}, the configuration asks for {wanted}"
        yield warning("sockets", cause, f"sysctl -w net.core.somaxconn={wanted}, or lower `backlog`")
    else:
        yield fine("sockets", f"{longest} connections wait to be accepted")
    count, limit = (read(f"/proc/sys/net/netfilter/nf_conntrack_{name}").strip() for name in ("count", "max"))
    if count.isdigit() and limit.isdigit() and int(count) > USED * int(limit):
        cause = f"the firewall tracks {count} of at most {limit} connections; further ones are dropped"
        yield failure("sockets", cause, "sysctl -w net.netfilter.nf_conntrack_max=...")


def longest_queue(table: str, ports: set[int]) -> int:
    """The most connections that wait at one of these ports, from the text of /proc/net/tcp."""
    longest = 0
    for line in table.splitlines():
        columns = line.split()
        if len(columns) > 9 and columns[3] == LISTEN and int(columns[1].rpartition(":")[2], 16) in ports:
            longest = max(longest, int(columns[4].rpartition(":")[2], 16))
    return longest
