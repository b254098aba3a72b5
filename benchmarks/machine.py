"""What the figures depend on: this machine, its disk's fsync, and what a process tree takes of it."""

from __future__ import annotations

import contextlib
import os
import platform
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Machine:
    """Where the benchmark ran.

    Attributes:
        fsync_ms: median of 500 fdatasync, each of 4 KiB more in a file.
        filesystem: type of the one the brokers' data is on.
        load_average: processes wanting a core when the run began, the last minute's average.
    """

    cores: int
    processor: str
    system: str
    python: str
    filesystem: str
    fsync_ms: float
    load_average: float


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process tree takes: resident bytes now and at most so far; CPU seconds and bytes written to disk."""

    resident_bytes: int
    peak_bytes: int
    cpu_s: float
    written_bytes: int


def describe(directory: Path) -> Machine:
    """Look at this machine and at the disk of `directory`."""
    return Machine(
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        processor=_processor(),
        system=f"{platform.system()} {platform.release()}",
        python=f"{platform.python_implementation()} {platform.python_version()}",
        filesystem=_filesystem(directory),
        fsync_ms=statistics.median(fsyncs_ns(directory)) / 1e6,
        load_average=os.getloadavg()[0],
    )


def fsyncs_ns(directory: Path, times: int = 500) -> list[int]:
    """Nanoseconds of writing 4 KiB to the end of a file in `directory` and fdatasync, so many times."""
    sync = getattr(os, "fdatasync", os.fsync)
    block = os.urandom(4096)
    taken_ns: list[int] = []
    with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
        for _ in range(times):
            began_ns = time.monotonic_ns()
            file.write(block)
            sync(file.fileno())
            taken_ns.append(time.monotonic_ns() - began_ns)
    return taken_ns


def sequential_mib_s(directory: Path, mebibytes: int = 128) -> float:
    """MiB a second of writing blocks of 1 MiB to a file in `directory`, each on disk before the next (O_DSYNC)."""
    block = os.urandom(1_048_576)
    path = directory / f".sequential-{os.getpid()}"
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_DSYNC, 0o600)
    try:
        began_ns = time.monotonic_ns()
        for _ in range(mebibytes):
            os.write(file, block)
        return mebibytes / (time.monotonic_ns() - began_ns) * 1e9
    finally:
        os.close(file)
        path.unlink()


def disk_bytes(directory: Path) -> int:
    """Bytes that the files of a directory take on the disk."""
    total = 0
    for place, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.stat(os.path.join(place, name)).st_blocks * 512
    return total


def tree(root: int) -> list[int]:
    """Process ids of a process and all its living descendants; empty where there is no /proc."""
    children: dict[int, list[int]] = {}
    for entry in PROC.glob("[0-9]*"):
        fields = _stat_fields(int(entry.name))
        if fields:
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [root] if _stat_fields(root) else []
    for process in found:  # Grows while it is walked: breadth first.
        found.extend(children.get(process, ()))
    return found


def session(process: int) -> int | None:
    """The session that a process belongs to; None when it is gone (or a zombie) or there is no /proc."""
    fields = _stat_fields(process)
    return int(fields[3]) if fields and fields[0] != "Z" else None


def usage(processes: list[int]) -> Usage | None:
    """What these processes take together; None when nothing is known of them."""
    resident, peak, cpu_s, written, known = 0, 0, 0.0, 0, False
    for process in processes:
        fields = _stat_fields(process)
        if not fields:
            continue
        try:
            status = (PROC / str(process) / "status").read_text()
            written += int((PROC / str(process) / "io").read_text().partition("\nwrite_bytes: ")[2].split()[0])
        except OSError:
            continue
        sizes = dict(line.split(":", 1) for line in status.splitlines() if line.startswith("Vm"))
        resident += _kib(sizes.get("VmRSS")) * 1024
        peak += _kib(sizes.get("VmHWM")) * 1024
        cpu_s += _cpu_s(process) or (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
        known = True
    return Usage(resident, peak, cpu_s, written) if known else None


def forget_peaks(processes: list[int]) -> None:
    """Have the peaks of these processes begin anew, at what they have now; where the system can do that."""
    for process in processes:
        with contextlib.suppress(OSError):
            (PROC / str(process) / "clear_refs").write_text("5")


def _cpu_s(process: int) -> float:
    """CPU seconds of the threads of a process, to the nanosecond; 0 where the system does not count them."""
    taken_ns = 0
    for file in (PROC / str(process) / "task").glob("*/schedstat"):
        with contextlib.suppress(OSError):
            taken_ns += int(file.read_text().split()[0])
    return taken_ns / 1e9


def _stat_fields(process: int) -> list[str]:
    """Fields of /proc/PID/stat from the state on (a name before it may hold spaces); empty if gone."""
    try:
        return (PROC / str(process) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _kib(text: str | None) -> int:
    return int(text.split()[0]) if text else 0


def _processor() -> str:
    try:
        lines = (PROC / "cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _filesystem(directory: Path) -> str:
    """Type of the file system that holds `directory`: of the longest mount point above it."""
    try:
        mounts = [line.split() for line in (PROC / "mounts").read_text().splitlines()]
    except OSError:
        return "?"
    above = [(len(point), kind) for _, point, kind, *_ in mounts if directory.resolve().is_relative_to(point)]
    return max(above)[1] if above else "?"
