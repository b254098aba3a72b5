"""What more than one process would bring: an experiment, written up in docs/decisions/0010-one-process.md.

one       one broker, four queues
two       two brokers, two queues each, every client at the right one: the most that sharding queues could give
behind    one broker behind a process that only passes bytes on, as clients at the wrong one would need it

python benchmarks/sharding.py --pabal DIR      DIR: where the package is, compiled or not
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import uvloop

import peers
from brokers import free_port

HERE = Path(__file__).resolve().parent
LOADS = {
    "transient, acks": ["--messages", "1200000"],
    "durable, confirms, acks": ["--messages", "600000", "--durable", "--window", "500"],
}


class Forward(asyncio.Protocol):
    """Passes what comes on one connection on to another, which waits when it is behind."""

    def __init__(self, port: int | None) -> None:
        self._port = port
        self.other: Forward | None = None
        self.transport: asyncio.Transport
        self._early: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        if self._port is not None:
            self._connecting = asyncio.get_running_loop().create_task(self._connect(self._port))

    async def _connect(self, port: int) -> None:
        loop = asyncio.get_running_loop()
        _, other = await loop.create_connection(lambda: Forward(None), "127.0.0.1", port)
        other.other, self.other = self, other
        other.transport.writelines(self._early)

    def data_received(self, data: bytes) -> None:
        if self.other is None:
            self._early.append(data)
        else:
            self.other.transport.write(data)

    def pause_writing(self) -> None:
        if self.other is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None:
            self.other.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.other is not None:
            self.other.transport.close()


def forward(port: int, to_port: int) -> None:
    """Listens on `port` and passes all on to `to_port`, for ever."""

    async def run() -> None:
        server = await asyncio.get_running_loop().create_server(lambda: Forward(to_port), "127.0.0.1", port)
        await server.serve_forever()

    uvloop.run(run())


@contextlib.contextmanager
def forwarding(to_port: int) -> Iterator[int]:
    port = free_port()
    process = multiprocessing.Process(target=forward, args=(port, to_port), daemon=True)
    process.start()
    try:
        yield port
    finally:
        process.terminate()
        process.join()


def put(ports: list[int], arguments: list[str]) -> float:
    """Puts the load on these brokers at once, a share on each. Messages a second, all together."""
    total = int(arguments[1])
    share = ["--messages", str(total // len(ports)), *arguments[2:], "--queues", str(4 // len(ports)), "--json"]
    loads = [
        subprocess.Popen([sys.executable, "load.py", "--port", str(port), *share], cwd=HERE, stdout=subprocess.PIPE)
        for port in ports
    ]
    speeds = [json.loads(load.communicate()[0])["outcome"]["speeds"]["both"]["per_s"] for load in loads]
    return total / max(total / len(ports) / speed for speed in speeds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pabal", type=Path, default=HERE.parent / "src")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix=".bench-", dir=Path.cwd()))
    try:
        with contextlib.ExitStack() as stack:
            brokers = [peers.pabal(name, options.pabal, directory / name, []) for name in ("first", "second")]
            for broker in brokers:
                stack.enter_context(broker)
            first, second = (broker.port for broker in brokers)
            front = stack.enter_context(forwarding(first))
            setups = {"one": [first], "two": [first, second], "behind": [front]}
            print(f"{os.cpu_count()} cores, Pabal {brokers[0].form}; thousand messages a second, medians")
            for title, arguments in LOADS.items():
                found: dict[str, list[float]] = {name: [] for name in setups}
                for _ in range(options.rounds):
                    for name, ports in setups.items():
                        found[name].append(put(ports, arguments))
                one = found["one"]
                for name, speeds in found.items():
                    ratio = statistics.median(speed / base for speed, base in zip(speeds, one, strict=True))
                    print(f"{title:26} {name:8} {statistics.median(speeds) / 1000:8.0f}   {ratio:.2f} x")
    finally:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
