"""Reads all of a data directory and tells what is in it and what is wrong with it; changes nothing.

LMDB ends the process when it meets certain damage, so the reading is done by another: `python -m pabal.store.audit
DIRECTORY`, which prints what it finds.
"""

from __future__ import annotations

import fcntl
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from struct import Struct
from typing import Any, Final

import lmdb

from pabal.model.definitions import decode_definition, durable_ids
from pabal.model.errors import StoreError
from pabal.store.batch import QueueState, decode_state, owner_id, position_sequence, unpack_key
from pabal.store.entry import decode_entry
from pabal.store.files import LOCK_FILE
from pabal.store.lmdb_store import DATA_FILE, FORMAT_VERSION
from pabal.store.record import RecordReader, referred_content
from pabal.store.write_ahead_log import LOG_FILE, WriteAheadLog

SOUND: Final = 0
FAULTY: Final = 1
NOT_CHECKED: Final = 2
_FAULTS_SHOWN_MAX: Final = 100
_ID: Final = Struct(">Q")
_DROP: Final = Struct(">QQQ")
_FORMATS: Final = (b"1", str(FORMAT_VERSION).encode())
_OWN_EXCHANGES: Final = "amq."


def check(directory: Path, out: Callable[[str], None]) -> int:
    """Calls `out` with each line of a summary and of each fault. Returns the exit code: 0 sound, 1 faults found, 2 it
    cannot be checked (in use by a broker, or no data directory)."""
    if not (directory / DATA_FILE).is_file():
        out(f"{directory} is no data directory of Pabal: there is no {DATA_FILE}")
        return NOT_CHECKED
    lock = None
    try:
        lock = open(directory / LOCK_FILE, encoding="ascii")  # noqa: SIM115 - held open for as long as the lock is
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        pass
    except OSError as error:
        in_use = isinstance(error, BlockingIOError)
        out(f"{directory} is in use: stop its broker, or check a backup" if in_use else f"{directory}: {error}")
        if lock is not None:
            lock.close()
        return NOT_CHECKED
    try:
        return _check_elsewhere(directory, out)
    finally:
        if lock is not None:
            lock.close()


def _check_elsewhere(directory: Path, out: Callable[[str], None]) -> int:
    command = [sys.executable, "-m", "pabal.store.audit", str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    for line in done.stdout.splitlines():
        out(line)
    if done.returncode in (SOUND, FAULTY) and done.stdout:
        return done.returncode
    told = done.stderr.strip().splitlines()
    out(f"fault: {DATA_FILE} is damaged: reading it ended with {done.returncode} {told[-1] if told else ''}".rstrip())
    return FAULTY


class _AnyContainer:
    """Stands for the encoding of contents, which are not looked into."""

    code = 1


class Audit:
    """What is read, and what is wrong with it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.faults: list[str] = []
        self.fault_count = 0
        self._states: dict[int, QueueState] = {}
        self._by_key: dict[bytes, Any] = {}
        self._drops: list[tuple[int, int, int]] = []
        self._counts: Counter[int] = Counter()
        self._highest: dict[int, int] = {}
        self._uses: Counter[int] = Counter()
        self._record_bytes = 0

    @property
    def _definitions(self) -> list[Any]:
        return list(self._by_key.values())

    def fault(self, text: str) -> None:
        self.fault_count += 1
        if len(self.faults) < _FAULTS_SHOWN_MAX:
            self.faults.append(text)

    def run(self) -> list[str]:
        """The lines of the summary."""
        path = self._directory / DATA_FILE
        with lmdb.open(str(path), subdir=False, lock=False, readonly=True, max_dbs=8) as environment:
            page_bytes = environment.stat()["psize"]
            file_bytes = (environment.info()["last_pgno"] + 1) * page_bytes
            size = path.stat().st_size
            if size < file_bytes:
                # LMDB never writes pages at the end that a commit took and had no use for in the end: one that
                # waited for room may have many. If any of those that are missing is in use, reading ends here.
                print(f"(it has {size} bytes of {file_bytes})", file=sys.stderr, flush=True)
                if size % page_bytes:
                    self.fault(f"{DATA_FILE} has lost its end: it has {size} bytes of {file_bytes}")
                    return []
            names = []
            with environment.begin() as transaction:
                names = [bytes(key) for key, _ in transaction.cursor()]
            found = {name: environment.open_db(name, create=False) for name in names}
            with environment.begin() as transaction:
                stats = [environment.stat(), *(transaction.stat(each) for each in found.values())]
                epoch = self._read(transaction, found)
        pages = sum(each["branch_pages"] + each["leaf_pages"] + each["overflow_pages"] for each in stats)
        entries = self._read_log(epoch)
        self._check_definitions()
        queues = [each for each in self._definitions if type(each).__name__ == "QueueDefinition"]
        messages = sum(state.messages for state in self._states.values())
        return [
            f"data file    {file_bytes} bytes, {max(0, file_bytes // page_bytes - pages - 2)} of "
            f"{file_bytes // page_bytes} pages free, {epoch} checkpoints",
            f"log          {entries[0]} entries since the last, {entries[1]} bytes",
            f"definitions  {len(self._definitions)}, {len(queues)} of them queues",
            f"messages     {messages}; {sum(self._counts.values())} in the data file, {self._record_bytes} bytes",
        ]

    def _read(self, transaction: Any, found: dict[bytes, Any]) -> int:
        def items(name: bytes) -> Any:
            return transaction.cursor(db=found[name]) if name in found else ()

        meta = {bytes(key): bytes(value) for key, value in items(b"meta")}
        if meta.get(b"format") not in _FORMATS:
            self.fault(f"the data file has format {meta.get(b'format', b'').decode(errors='replace')!r}")
        for key, value in items(b"definitions"):
            try:
                self._by_key[bytes(key)] = decode_definition(value)
            except Exception as error:
                self.fault(f"the definition {key!r} cannot be read: {error}")
        for key, value in items(b"queues"):
            try:
                self._states[_ID.unpack(key)[0]] = decode_state(value)
            except Exception as error:
                self.fault(f"the state of queue {key.hex()} cannot be read: {error}")
        self._drops = [_DROP.unpack(key) for key, _ in items(b"drops") if len(key) == _DROP.size]
        contents = {_ID.unpack(key)[0]: len(value) for key, value in items(b"contents")}
        references = {_ID.unpack(key)[0]: _ID.unpack(value)[0] for key, value in items(b"references")}
        self._record_bytes += sum(contents.values())
        self._read_records(items(b"messages"), contents)
        self._compare(contents, references)
        return int(meta.get(b"epoch", b"0"))

    def _read_records(self, items: Any, contents: dict[int, int]) -> None:
        containers: Any = {_AnyContainer.code: _AnyContainer()}
        reader = RecordReader(containers, lambda content_id: b"" if content_id in contents else None)
        for key, record in items:
            if len(key) not in (16, 25):
                self.fault(f"a message has the key {key.hex()}, which is none")
                continue
            queue_id, position = unpack_key(key)
            self._record_bytes += len(record)
            try:
                reader.decode(position, record)
            except StoreError as error:
                self.fault(f"{self._name(queue_id)}: {error}")
            if content_id := referred_content(record):
                self._uses[content_id] += 1
            if not any(drop == queue_id and first <= position <= last for drop, first, last in self._drops):
                self._counts[queue_id] += 1
                self._highest[queue_id] = max(self._highest.get(queue_id, 0), position_sequence(position))

    def _compare(self, contents: dict[int, int], references: dict[int, int]) -> None:
        for queue_id in sorted({*self._states, *self._counts}):
            state, count = self._states.get(queue_id), self._counts[queue_id]
            if state is None:
                self.fault(f"{self._name(queue_id)}: {count} messages, and no state")
            elif state.messages != count:
                self.fault(f"{self._name(queue_id)}: {count} messages, and its state says {state.messages}")
        for content_id in sorted({*contents, *self._uses, *references}):
            kept = references.get(content_id, 1) if content_id in contents else 0
            if kept != self._uses[content_id]:
                self.fault(f"content {content_id}: {self._uses[content_id]} messages refer to it, {kept} are noted")

    def _read_log(self, epoch: int) -> tuple[int, int]:
        """Its entries and their bytes; from here on states and definitions are those after them."""
        entries = size = 0
        log = None
        try:
            log = WriteAheadLog(self._directory / LOG_FILE, new=False, read_only=True)
            for payload in log.recover(epoch):
                batch = decode_entry(payload)
                self._states.update(batch.states)
                for queue_id in batch.gone:
                    self._states.pop(queue_id, None)
                for key, value in batch.definitions:
                    if value is None:
                        self._by_key.pop(key, None)
                    else:
                        self._by_key[key] = decode_definition(value)
                entries += 1
                size += len(payload)
        except (StoreError, ValueError) as error:
            self.fault(str(error))
        finally:
            if log is not None:
                log.close()
        return entries, size

    def _check_definitions(self) -> None:
        vhosts = {each.name for each in self._definitions if type(each).__name__ == "VhostDefinition"}
        queues, exchanges = set(), set()
        for each in self._definitions:
            vhost = getattr(each, "vhost", None)
            if vhost is not None and vhost not in vhosts:
                name = f"{type(each).__name__} {getattr(each, 'name', '')!r}"
                self.fault(f"{name} is in vhost {vhost!r}, which is missing")
            if type(each).__name__ == "QueueDefinition":
                queues.add((each.vhost, each.name))
            elif type(each).__name__ == "ExchangeDefinition":
                exchanges.add((each.vhost, each.name))
        for each in self._definitions:
            if type(each).__name__ != "BindingDefinition":
                continue
            known = exchanges if each.to_exchange else queues
            own = each.to_exchange and each.destination.startswith(_OWN_EXCHANGES)
            if not own and (each.vhost, each.destination) not in known:
                self.fault(f"a binding leads to {each.destination!r} in vhost {each.vhost!r}, which is missing")
            if not each.source.startswith(_OWN_EXCHANGES) and (each.vhost, each.source) not in exchanges:
                self.fault(f"a binding is of exchange {each.source!r} in vhost {each.vhost!r}, which is missing")
        ids = durable_ids(self._definitions)
        orphans = [queue_id for queue_id in self._states if owner_id(queue_id) not in ids]
        if orphans:
            count = sum(self._states[queue_id].messages for queue_id in orphans)
            print(f"note: {count} messages of queues that were not durable: the next start removes them")

    def _name(self, queue_id: int) -> str:
        for each in self._definitions:
            if getattr(each, "queue_id", 0) == owner_id(queue_id):
                return f"queue {each.name!r} in vhost {each.vhost!r}"
        return f"queue {queue_id}"


def main(directory: Path) -> int:
    audit = Audit(directory)
    try:
        lines = audit.run()
    except lmdb.Error as error:
        lines = []
        audit.fault(f"{DATA_FILE} cannot be read: {error}")
    for line in lines:
        print(line)
    for text in audit.faults:
        print(f"fault: {text}")
    if audit.fault_count > len(audit.faults):
        print(f"fault: and {audit.fault_count - len(audit.faults)} more")
    print("no faults" if not audit.fault_count else f"{audit.fault_count} faults")
    return FAULTY if audit.fault_count else SOUND


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
