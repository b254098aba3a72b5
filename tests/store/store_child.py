"""Opens data directories in children of its own, so that one that is killed shows as a signal and not as our end.

Usage: store_child.py read DIRECTORY...    prints for each: "ok <messages>", "refused <text>" or "died <status>"
       store_child.py fill DIRECTORY BYTES writes until no file may be longer than BYTES; prints the commits that
                                           succeeded and the StoreError that ended it
"""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

from stores import CONTAINERS, Opened

from pabal.model.errors import StoreError
from pabal.store.lmdb_store import LmdbStore


def read_all(directory: Path) -> str:
    """Opens the store and reads everything in it, by way of what its states say."""
    try:
        opened = Opened(LmdbStore(directory, CONTAINERS))
        count = sum(len(opened.read(queue_id)) for queue_id in opened.loaded.queues)
        opened.settle_down()
        opened.store.close()
    except StoreError as error:
        return f"refused {error}"
    return f"ok {count}"


def in_child(directory: Path) -> str:
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(writing, read_all(directory).encode())
        except BaseException as error:
            os.write(writing, f"raised {error!r}".encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    return text.replace("\n", " ") if os.WIFEXITED(status) else f"died {status}"


def fill(directory: Path, bytes_max: int) -> None:
    """Each commit puts one message, some of them large."""
    opened = Opened(LmdbStore(directory, CONTAINERS))
    opened.define(1)
    opened.commit()
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_max, bytes_max))
    commits = 0
    try:
        while commits < 10_000:
            opened.append(1, [bytes(7000)])
            opened.commit()
            commits += 1
    except StoreError as error:
        print(commits)
        print(error)
    opened.store.close()


if __name__ == "__main__":
    if sys.argv[1] == "read":
        for name in sys.argv[2:]:
            print(in_child(Path(name)))
    else:
        fill(Path(sys.argv[2]), int(sys.argv[3]))
