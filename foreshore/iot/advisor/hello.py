"""The cipher suites of a TLS ClientHello, and which of them AWS IoT Core serves. Pure.

Sources: RFC 8446, section 4.1.2; AWS IoT developer guide, "Transport security in AWS IoT Core".
"""

from __future__ import annotations

SUPPORTED = {
    0x1301: "TLS_AES_128_GCM_SHA256",
    0x1302: "TLS_AES_256_GCM_SHA384",
    0x1303: "TLS_CHACHA20_POLY1305_SHA256",
    0xC02B: "ECDHE-ECDSA-AES128-GCM-SHA256",
    0xC02F: "ECDHE-RSA-AES128-GCM-SHA256",
    0xC023: "ECDHE-ECDSA-AES128-SHA256",
    0xC027: "ECDHE-RSA-AES128-SHA256",
    0xC009: "ECDHE-ECDSA-AES128-SHA",
    0xC013: "ECDHE-RSA-AES128-SHA",
    0xC02C: "ECDHE-ECDSA-AES256-GCM-SHA384",
    0xC030: "ECDHE-RSA-AES256-GCM-SHA384",
    0xC024: "ECDHE-ECDSA-AES256-SHA384",
    0xC028: "ECDHE-RSA-AES256-SHA384",
    0xC00A: "ECDHE-ECDSA-AES256-SHA",
    0xC014: "ECDHE-RSA-AES256-SHA",
    0x009C: "AES128-GCM-SHA256",
    0x003C: "AES128-SHA256",
    0x002F: "AES128-SHA",
    0x009D: "AES256-GCM-SHA384",
    0x003D: "AES256-SHA256",
    0x0035: "AES256-SHA",
}

RECOMMENDED = frozenset((0x1301, 0x1302, 0x1303, 0xC02B, 0xC02F, 0xC02C, 0xC030))

_SIGNALS = frozenset((0x00FF, 0x5600))
"""Renegotiation and fallback signalling values stand in the list and are no suites (RFC 5746, RFC 7507)."""


def cipher_suites(data: bytes) -> list[int] | None:
    """The suites a client offers, in its order; None until the hello has come whole. Raises ValueError for no hello."""
    if data and data[0] != 22:
        raise ValueError("not a TLS handshake")
    body = b""
    at = 0
    while len(data) >= at + 5:
        size = int.from_bytes(data[at + 3 : at + 5], "big")
        body += data[at + 5 : at + 5 + size]
        at += 5 + size
    if len(body) < 4 or len(body) < 4 + int.from_bytes(body[1:4], "big"):
        return None
    if body[0] != 1:
        raise ValueError("not a ClientHello")
    place = 4 + 2 + 32
    place += 1 + body[place]
    size = int.from_bytes(body[place : place + 2], "big")
    raw = body[place + 2 : place + 2 + size]
    suites = [int.from_bytes(raw[i : i + 2], "big") for i in range(0, len(raw) - 1, 2)]
    return [suite for suite in suites if suite not in _SIGNALS and not _is_grease(suite)]


def _is_grease(suite: int) -> bool:
    """Values that clients offer so that servers learn to ignore them (RFC 8701)."""
    return suite & 0x0F0F == 0x0A0A and suite >> 8 == suite & 0xFF
