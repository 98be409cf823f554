"""Checksums that a file carries within itself, so that a change of any bit shows when it is read.

A *sealed* file has the SHA-256 of its own bytes in its JSON, at a name of its own, counted with
zeros in that place. It stays what it was, JSON or safetensors, for every other reader. A *signed*
file ends in the SHA-256 of what stands before.
"""

import hashlib
import re

NAME = "seal"
BLANK = "0" * 64
_SEAL = re.compile(rb'"seal": ?"([0-9a-f]{64})"')
_SIZE = hashlib.sha256().digest_size


class DamagedError(ValueError):
    """A file does not match its checksum, or has none; the message says which."""


def sealed(content: bytes) -> bytes:
    """Return JSON, or safetensors, with its checksum in the place of the blank one.

    Raises
    ------
    ValueError
        When `content` has no entry `"seal": "000…"`, or several.
    """
    start = _place(content)
    if content[start : start + len(BLANK)] != BLANK.encode():
        raise ValueError("the content is sealed already")
    return _with(content, start, hashlib.sha256(content).hexdigest())


def check_sealed(content: bytes) -> bytes:
    """Return the content of a sealed file as it is.

    Raises
    ------
    DamagedError
        When it does not match its checksum, or has none.
    """
    start = _place(content)
    digest = content[start : start + len(BLANK)].decode()
    if hashlib.sha256(_with(content, start, BLANK)).hexdigest() != digest:
        raise DamagedError("it does not match its checksum")
    return content


def signed(content: bytes) -> bytes:
    """Return any content followed by its checksum."""
    return content + hashlib.sha256(content).digest()


def check_signed(content: bytes) -> bytes:
    """Return the content of a signed file, without the checksum.

    Raises
    ------
    DamagedError
        When it does not match its checksum.
    """
    body, digest = content[:-_SIZE], content[-_SIZE:]
    if hashlib.sha256(body).digest() != digest:
        raise DamagedError("it does not match its checksum")
    return body


def _place(content: bytes) -> int:
    """Return where the 64 digits of the only seal begin."""
    places = [match.start(1) for match in _SEAL.finditer(content)]
    if len(places) != 1:
        raise DamagedError("it has no checksum, or more than one")
    return places[0]


def _with(content: bytes, start: int, digest: str) -> bytes:
    return content[:start] + digest.encode() + content[start + len(digest) :]
