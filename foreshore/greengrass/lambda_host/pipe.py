"""Messages between the host and an instance: pickled values with their length, over a socket pair.

What `multiprocessing.connection` would do too, without the 2 MB of memory that its import costs each instance.
"""

from __future__ import annotations

import pickle
import socket
import struct
from typing import Any

_length = struct.Struct(">I")


class Pipe:
    """One end. `send` may be called by one thread and `recv` by another."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end

    def send(self, value: Any) -> None:
        """Write one message. Raises OSError when the other end is gone."""
        data = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
        self._end.sendall(_length.pack(len(data)) + data)

    def recv(self) -> Any:
        """The next message. Raises EOFError at the end, OSError when the other end was lost."""
        (size,) = _length.unpack(self._read(_length.size))
        return pickle.loads(self._read(size))

    def _read(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            part = self._end.recv(min(size - len(data), 1 << 20))
            if not part:
                raise EOFError
            data += part
        return bytes(data)

    def end(self) -> None:
        """Tell the other end that nothing more comes. Raises OSError when it is gone."""
        self._end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close this end."""
        self._end.close()
