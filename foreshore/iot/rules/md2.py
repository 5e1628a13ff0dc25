"""MD2 (RFC 1319), which Python's hashlib does not have and IoT SQL does. For compatibility only: it is long broken."""

from __future__ import annotations


def _pi_digits() -> bytes:
    """The permutation of 0..255 "constructed from the digits of pi" (RFC 1319, section 3.2), drawn as it was made.

    A Fisher-Yates shuffle whose random numbers come from the decimal digits of pi: for i from 2 to 256, a number
    below i is read from as few digits as hold it, numbers beyond the largest multiple of i being dropped.
    """
    digits = iter(_pi_decimal(1000))

    def below(limit: int) -> int:
        while True:
            number: int = next(digits)
            span = 10
            while span < limit:
                number, span = number * 10 + next(digits), span * 10
            if number < span - span % limit:
                return number % limit

    table = list(range(256))
    for i in range(2, 257):
        j = below(i)
        table[j], table[i - 1] = table[i - 1], table[j]
    return bytes(table)


def _pi_decimal(count: int) -> list[int]:
    """The first `count` digits of pi by Machin's formula."""
    unity = 10 ** (count + 10)

    def arccot(x: int) -> int:
        term: int = unity // x
        total, n, sign, square = term, 3, -1, x * x
        while term:
            term //= square
            total += sign * (term // n)
            sign, n = -sign, n + 2
        return total

    pi: int = 4 * (4 * arccot(5) - arccot(239)) // 10**10
    text: list[int] = []
    for _ in range(count):
        pi, digit = divmod(pi, 10)
        text.append(digit)
    return [pi, *reversed(text)] if pi else list(reversed(text))


_TABLE = _pi_digits()


def md2(data: bytes) -> bytes:
    """The 16-byte digest."""
    pad = 16 - len(data) % 16
    data += bytes([pad]) * pad
    data += _checksum(data)
    state = bytearray(48)
    for start in range(0, len(data), 16):
        for j in range(16):
            state[16 + j] = data[start + j]
            state[32 + j] = state[16 + j] ^ state[j]
        t = 0
        for j in range(18):
            for k in range(48):
                state[k] ^= _TABLE[t]
                t = state[k]
            t = (t + j) % 256
    return bytes(state[:16])


def _checksum(data: bytes) -> bytes:
    """Section 3.2, with the exclusive-or that the RFC's erratum restores."""
    sums, last = bytearray(16), 0
    for start in range(0, len(data), 16):
        for j in range(16):
            sums[j] ^= _TABLE[data[start + j] ^ last]
            last = sums[j]
    return bytes(sums)
