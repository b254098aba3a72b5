"""Free space and memory: what counts, where limits come from, and how soon they are looked at again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pabal.model.limits import RESOURCES_CHECK_SECONDS, RESOURCES_CHECK_SECONDS_MIN
from pabal.server import resources
from pabal.server.resources import Watch, machine_memory_bytes
from pabal.server.settings import Settings
from pabal.store.interface import Size
from pabal.store.memory import MemoryStore

LEAST = 50_000_000


class Store(MemoryStore):
    free_bytes = 0

    def size(self) -> Size:
        return Size(self.free_bytes, 0, self.free_bytes)


class Machine:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.free = 10 * LEAST
        self.used = 0
        self.store = Store({})
        monkeypatch.setattr(resources, "disk_free_bytes", lambda directory: self.free)
        monkeypatch.setattr(resources, "memory_bytes", lambda: self.used)
        monkeypatch.setattr(resources, "machine_memory_bytes", lambda: 1_000_000)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def test_free_space_that_falls_fast_is_looked_at_sooner(machine: Machine) -> None:
    watch = Watch(Settings(), machine.store)
    assert watch.shortages(0.0) == {}
    assert watch.next_seconds == RESOURCES_CHECK_SECONDS
    machine.free = 9 * LEAST
    watch.shortages(5.0)
    assert watch.next_seconds == RESOURCES_CHECK_SECONDS, "40 s are left"
    machine.free = 4 * LEAST
    watch.shortages(10.0)
    assert watch.next_seconds == pytest.approx(0.75), "3 s are left"
    machine.free = LEAST + 1
    watch.shortages(11.0)
    assert watch.next_seconds == RESOURCES_CHECK_SECONDS_MIN
    machine.free = LEAST - 1
    assert "disk" in watch.shortages(11.1)
    assert watch.next_seconds <= 1.0
    machine.free = 10 * LEAST
    assert watch.shortages(12.0) == {}


def test_free_pages_of_the_data_file_count(machine: Machine) -> None:
    watch = Watch(Settings(), machine.store)
    machine.free = 0
    machine.store.free_bytes = LEAST
    assert watch.shortages(0.0) == {}
    machine.store.free_bytes = LEAST - 1
    assert f"0 bytes free and {LEAST - 1} in the data file" in watch.shortages(1.0)["disk"]


def test_a_full_disk_is_short_of_space_whatever_the_settings(machine: Machine) -> None:
    watch = Watch(replace(Settings(), disk_free_bytes_min=0), machine.store)
    assert "disk" in watch.shortages(0.0, waits_for_room=True)
    machine.store.disk.full = True
    assert "disk" in watch.shortages(1.0)
    machine.store.disk.full = False
    assert watch.shortages(2.0) == {}


def test_the_part_of_the_memory_that_may_be_used(machine: Machine) -> None:
    watch = Watch(Settings(), machine.store)
    machine.used = 400_000
    assert watch.shortages(0.0) == {}
    machine.used = 400_001
    assert watch.shortages(0.0) == {"memory": "400001 bytes used, and 400000 may be"}
    machine.used = 0
    assert watch.shortages(0.0) == {}
    assert Watch(replace(Settings(), memory_bytes_max=7), machine.store).memory_bytes_max == 7
    machine.used = 10**9
    assert Watch(replace(Settings(), memory_percent_max=0), machine.store).shortages(0.0) == {}


@pytest.mark.parametrize(
    ("cgroup", "files", "expected"),
    [
        ("0::/\n", {}, 8_000_000 * 1024),
        ("0::/\n", {"memory.max": "max\n"}, 8_000_000 * 1024),
        ("0::/a/b\n", {"a/memory.max": "1000\n", "a/b/memory.max": "max\n"}, 1000),
        ("0::/a/b\n", {"a/memory.max": "1000\n", "a/b/memory.max": "500\n"}, 500),
        ("0::/elsewhere\n", {"memory.max": "2000\n"}, 2000),
        ("5:cpu,memory:/c\n", {"memory/c/memory.limit_in_bytes": "300\n"}, 300),
        ("", {"memory/memory.limit_in_bytes": "9223372036854771712\n"}, 8_000_000 * 1024),
    ],
)
def test_the_memory_of_a_container(tmp_path: Path, cgroup: str, files: dict[str, str], expected: int) -> None:
    proc, groups = tmp_path / "proc", tmp_path / "groups"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text("MemFree: 1 kB\nMemTotal:  8000000 kB\n")
    (proc / "self" / "cgroup").write_text(cgroup)
    for name, text in files.items():
        (groups / name).parent.mkdir(parents=True, exist_ok=True)
        (groups / name).write_text(text)
    assert machine_memory_bytes(proc, groups) == expected


def test_where_proc_does_not_tell_the_system_does(tmp_path: Path) -> None:
    """As under systemd's ProcSubset=pid, where /proc has processes only."""
    if not Path("/proc/meminfo").exists():
        pytest.skip("needs Linux")
    assert machine_memory_bytes(tmp_path, tmp_path) == machine_memory_bytes(groups=tmp_path)


def test_where_nothing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(_: str) -> int:
        raise ValueError("unrecognized configuration name")

    monkeypatch.setattr(resources.os, "sysconf", unknown)
    assert machine_memory_bytes(tmp_path, tmp_path) is None
