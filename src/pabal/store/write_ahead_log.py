"""The write-ahead log: one file, to which most commits add an entry, emptied by each checkpoint.

An entry: "PBLE" | epoch u64 | number u32 | payload bytes u32 | CRC-32 of all this and the payload u32 | payload.
The epoch is the data file's: it goes up with each checkpoint, and with it the log begins anew at its first byte. So
nothing has to be erased: what is valid are the entries from the start of the file on that have the data file's epoch
and the numbers 0, 1, 2 …; the first that has not ends them. One that was cut short was never confirmed.

The file keeps its length, filled with zeros ahead: writing over what is there costs the disk half of what growing
a file does. It is opened with O_DSYNC, so that one call, without the interpreter's lock, writes and waits.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from struct import Struct
from typing import Final
from zlib import crc32

from pabal.model.errors import StoreError
from pabal.model.limits import ENTRY_BYTES_MAX, LOG_BYTES_MAX
from pabal.store.files import FILE_MODE, has_no_room, sync_directory, write_error
from pabal.store.reserve import reserve_blocks

LOG_FILE: Final = "pabal.log"
_MAGIC: Final = b"PBLE"
_HEAD: Final = Struct(">4sQIII")
_EPOCH: Final = Struct(">Q")
_CHECKED: Final = Struct(">QII")
_DURABLE: Final = getattr(os, "O_DSYNC", os.O_SYNC)
_GROWTH_BYTES: Final = 1024 * 1024
_USUAL_BYTES_MAX: Final = LOG_BYTES_MAX + ENTRY_BYTES_MAX + _GROWTH_BYTES
_ZEROS: Final = bytes(_GROWTH_BYTES)


class WriteAheadLog:
    """`path`: made when `new`, else it must be there; StoreError when it is not. `used_bytes`: what the entries since
    the last checkpoint take."""

    def __init__(self, path: Path, new: bool, read_only: bool = False) -> None:
        self.used_bytes = 0
        self._path = path
        self._epoch = 0
        self._number = 0
        if not new and not path.exists():
            raise StoreError(
                f"{path} is missing: it has what was confirmed last. Put it back beside the data file; to go on "
                f"without it, and without that, make an empty file of that name"
            )
        try:
            access = os.O_RDONLY if read_only else os.O_RDWR | os.O_CREAT
            self._file = os.open(path, access | os.O_CLOEXEC | _DURABLE, FILE_MODE)
            self._size_bytes = os.fstat(self._file).st_size
            if not read_only:
                reserve_blocks(self._file, _USUAL_BYTES_MAX)
            if new:
                sync_directory(path.parent)
        except OSError as error:
            raise StoreError(f"{path} cannot be opened: {error.strerror}") from None

    def recover(self, epoch: int) -> Iterator[bytes]:
        """The payloads of the entries since the checkpoint `epoch`, in order. StoreError: they belong to another
        data file."""
        at = number = 0
        while entry := self._read(at):
            found, found_number, payload = entry
            if found > epoch:
                raise StoreError(
                    f"{self._path} is newer than the data file beside it ({found} checkpoints, and the data file has "
                    f"{epoch}): they do not belong together"
                )
            if found < epoch or found_number != number:
                break
            yield payload
            number += 1
            at += _HEAD.size + len(payload)
        if self._is_beyond(at, epoch, number):
            raise StoreError(f"{self._path} is damaged at byte {at}: there are entries of this time beyond it")

    def restart(self, epoch: int) -> None:
        """The data file has it all, and this epoch now: entries begin anew."""
        self._epoch = epoch
        self._number = self.used_bytes = 0
        if self._size_bytes > 2 * _USUAL_BYTES_MAX:  # it grew while a backup was made
            os.ftruncate(self._file, _USUAL_BYTES_MAX)
            self._size_bytes = _USUAL_BYTES_MAX

    def encode(self, chunks: list[bytes]) -> bytes:
        """An entry to be appended next."""
        payload = b"".join(chunks)
        number = self._number
        self._number += 1
        check = crc32(payload, crc32(_CHECKED.pack(self._epoch, number, len(payload))))
        return _HEAD.pack(_MAGIC, self._epoch, number, len(payload), check) + payload

    def append(self, entry: bytes) -> None:
        """Writes an entry and waits for the disk; may run on another thread. StoreError: it is not durable.
        DiskFull: the same, and a part of it may have been written, which counts for nothing."""
        at = self.used_bytes
        end = at + len(entry)
        if end > self._size_bytes:
            entry += _ZEROS[: _GROWTH_BYTES - end % _GROWTH_BYTES]
        left = memoryview(entry)
        try:
            while left:
                written = os.pwrite(self._file, left, at)
                at += written
                left = left[written:]
        except OSError as error:
            # Without room for the zeros alone the entry itself is there, and each write waited for the disk.
            if at < end or not has_no_room(error):
                raise write_error(f"write to {self._path} failed: {error.strerror}", error) from None
        self._size_bytes = max(self._size_bytes, at)
        self.used_bytes = end

    def close(self) -> None:
        os.close(self._file)

    def _is_beyond(self, at: int, epoch: int, number: int) -> bool:
        """Behind an entry that is not whole there is none that is newer, as each is durable before the next is
        written. Else the one was not cut short when it was written, but damaged later."""
        begin = _MAGIC + _EPOCH.pack(epoch)
        rest = os.pread(self._file, self._size_bytes - at, at)
        found = rest.find(begin, 1)
        while found >= 0:
            entry = self._read(at + found)
            if entry is not None and entry[1] >= number:
                return True
            found = rest.find(begin, found + 1)
        return False

    def _read(self, at: int) -> tuple[int, int, bytes] | None:
        """Epoch, number and payload of the entry there; None when there is none that is whole."""
        try:
            head = os.pread(self._file, _HEAD.size, at)
            if len(head) < _HEAD.size:
                return None
            magic, epoch, number, size, check = _HEAD.unpack(head)
            if magic != _MAGIC or size > self._size_bytes - at - _HEAD.size:
                return None
            payload = os.pread(self._file, size, at + _HEAD.size)
        except OSError as error:
            raise StoreError(f"{self._path} cannot be read: {error.strerror}") from None
        if len(payload) < size or crc32(payload, crc32(_CHECKED.pack(epoch, number, size))) != check:
            return None
        return epoch, number, payload
