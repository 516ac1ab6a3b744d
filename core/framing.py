"""How a stream of bytes is cut into messages: the engine's framings, as values.

The engine does the cutting and the framing of what is sent, in C; `encode` and `parser` are the same code for a program
that talks to such a service.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar
from urllib.parse import quote, unquote_to_bytes

from ._native import ffi, lib
from .errors import ConfigurationError, EngineError

MESSAGE_BYTES_MAX: int = lib.IOCPD_FRAME_BYTES_MAX
_DELIMITER_BYTES_MAX: int = lib.IOCPD_DELIMITER_BYTES


class FrameTooLarge(EngineError, ValueError):
    """A message is larger than its framing allows."""


@dataclass(frozen=True, slots=True)
class Framing:
    """The base of the framings; use one of Raw, Lines, LengthPrefixed, Fixed and Delimited."""

    kind: ClassVar[str] = ""

    def encode(self, message: bytes) -> bytes:
        """A message as it is sent.

        Raises:
            ValueError: It can't be one message of this framing.
        """
        self.check(message)
        framing = struct_of(self)
        out = ffi.new("uint8_t[]", lib.iocpd_frame_encode(framing, ffi.NULL, len(message), ffi.NULL) or 1)
        size = lib.iocpd_frame_encode(framing, ffi.from_buffer(message), len(message), out)
        return bytes(ffi.buffer(out, size))

    def check(self, message: bytes) -> None:
        """ValueError if it can't be one message of this framing."""

    def parser(self) -> FrameParser:
        """Takes messages out of a stream."""
        return FrameParser(self)

    def options(self) -> dict[str, str]:
        """As they stand behind a listener's "?"."""
        return {"framing": self.kind}

    def __str__(self) -> str:
        """As it stands there, with the limit that holds."""
        return "&".join(f"{name}={value}" for name, value in self.options().items())

    @property
    def limit(self) -> int | None:
        """Bytes of the largest message; None for Raw."""
        return int(struct_of(self).max_bytes) or None

    @property
    def largest(self) -> int:
        """Bytes of the largest message as it is sent; 0 for Raw, which has no limit of its own."""
        framing = struct_of(self)
        return int(lib.iocpd_frame_encode(framing, ffi.NULL, framing.max_bytes, ffi.NULL))

    def _fill(self, struct: Any) -> None:
        struct.kind = lib.IOCPD_RAW

    def _check_size(self, message: bytes, most: int) -> None:
        if len(message) > most:
            raise FrameTooLarge(f"a message of {len(message)} bytes is above the limit of {most}")


def _check_whole(field: str, value: object, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ConfigurationError(field, value, f"must be a whole number from {least} to {most}")


@dataclass(frozen=True, slots=True)
class Raw(Framing):
    """No framing: a message is what one receive brings, in pieces of any size. What is sent goes out as it is."""

    kind: ClassVar[str] = "raw"


@dataclass(frozen=True, slots=True)
class Lines(Framing):
    """A message is a line without its end, which is LF or CR LF. What comes after the last LF is no message.

    Attributes:
        max_bytes: Of a line, without its end.
        crlf: What is sent ends with CR LF instead of LF.

    Raises:
        ConfigurationError: For a value that can't be used.
    """

    kind: ClassVar[str] = "lines"
    max_bytes: int = 65536
    crlf: bool = False

    def __post_init__(self) -> None:
        _check_whole("max_bytes", self.max_bytes, 1, MESSAGE_BYTES_MAX)

    def check(self, message: bytes) -> None:
        if len(message) > self.max_bytes:
            self._check_size(message, self.max_bytes)
        if message.find(b"\n") >= 0:  # `in` would first try it as a number, at ten times the cost
            raise ValueError("a line can't hold the end of a line: send several messages")

    def options(self) -> dict[str, str]:
        newline = {"newline": "crlf"} if self.crlf else {}
        return {"framing": self.kind, "max_bytes": str(self.max_bytes), **newline}

    def _fill(self, struct: Any) -> None:
        struct.kind, struct.max_bytes, struct.crlf = lib.IOCPD_LINES, self.max_bytes, self.crlf


@dataclass(frozen=True, slots=True)
class LengthPrefixed(Framing):
    """Before each message stands its length, which does not count itself.

    Attributes:
        prefix_bytes: Of the length: 1, 2 or 4.
        order: The length's bytes: "big" or "little" end first.
        max_bytes: Of a message; None: as many as the length can say, and 1 MiB for one of 4 bytes.

    Raises:
        ConfigurationError: For a value that can't be used.
    """

    kind: ClassVar[str] = "length"
    prefix_bytes: int = 4
    order: str = "big"
    max_bytes: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.prefix_bytes, bool) or self.prefix_bytes not in (1, 2, 4):
            raise ConfigurationError("prefix_bytes", self.prefix_bytes, "must be 1, 2 or 4")
        if self.order not in ("big", "little"):
            raise ConfigurationError("order", self.order, "must be one of big, little")
        if self.max_bytes is not None:
            _check_whole("max_bytes", self.max_bytes, 1, min(256**self.prefix_bytes - 1, MESSAGE_BYTES_MAX))

    @property
    def limit(self) -> int:
        """max_bytes, or what holds without it."""
        if self.max_bytes is not None:
            return self.max_bytes
        return min(int(256**self.prefix_bytes) - 1, 1024 * 1024)

    def __str__(self) -> str:
        return Framing.__str__(replace(self, max_bytes=self.limit))

    def check(self, message: bytes) -> None:
        self._check_size(message, self.limit)

    def options(self) -> dict[str, str]:
        most = {} if self.max_bytes is None else {"max_bytes": str(self.max_bytes)}
        return {"framing": self.kind, "prefix_bytes": str(self.prefix_bytes), "order": self.order, **most}

    def _fill(self, struct: Any) -> None:
        struct.kind, struct.max_bytes = lib.IOCPD_LENGTH_PREFIXED, self.limit
        struct.prefix_bytes, struct.little_endian = self.prefix_bytes, self.order == "little"


@dataclass(frozen=True, slots=True)
class Fixed(Framing):
    """Every message has the same size.

    Attributes:
        size: In bytes.

    Raises:
        ConfigurationError: For a value that can't be used.
    """

    kind: ClassVar[str] = "fixed"
    size: int = 64

    def __post_init__(self) -> None:
        _check_whole("size", self.size, 1, MESSAGE_BYTES_MAX)

    def check(self, message: bytes) -> None:
        if len(message) != self.size:
            raise ValueError(f"a message has {self.size} bytes, not {len(message)}")

    def options(self) -> dict[str, str]:
        return {"framing": self.kind, "size": str(self.size)}

    def _fill(self, struct: Any) -> None:
        struct.kind, struct.max_bytes = lib.IOCPD_FIXED, self.size


@dataclass(frozen=True, slots=True)
class Delimited(Framing):
    """Behind each message stands a delimiter, which is not part of it. What comes after the last one is no message.

    Attributes:
        delimiter: 1 to 16 bytes.
        max_bytes: Of a message.

    Raises:
        ConfigurationError: For a value that can't be used.
    """

    kind: ClassVar[str] = "delimited"
    delimiter: bytes = b"\0"
    max_bytes: int = 65536

    def __post_init__(self) -> None:
        if not isinstance(self.delimiter, bytes) or not 1 <= len(self.delimiter) <= _DELIMITER_BYTES_MAX:
            raise ConfigurationError("delimiter", self.delimiter, f"must be 1 to {_DELIMITER_BYTES_MAX} bytes")
        _check_whole("max_bytes", self.max_bytes, 1, MESSAGE_BYTES_MAX)

    def check(self, message: bytes) -> None:
        self._check_size(message, self.max_bytes)
        if (message + self.delimiter).find(self.delimiter) != len(message):
            raise ValueError("a message can't hold the delimiter, or end so that it seems to begin earlier")

    def options(self) -> dict[str, str]:
        return {"framing": self.kind, "delimiter": quote(self.delimiter, safe=""), "max_bytes": str(self.max_bytes)}

    def _fill(self, struct: Any) -> None:
        struct.kind, struct.max_bytes = lib.IOCPD_DELIMITED, self.max_bytes
        struct.delimiter_bytes = len(self.delimiter)
        struct.delimiter = self.delimiter.ljust(_DELIMITER_BYTES_MAX, b"\0")


_KINDS: dict[str, tuple[type[Framing], dict[str, str]]] = {
    "raw": (Raw, {}),
    "lines": (Lines, {"max_bytes": "max_bytes", "newline": "crlf"}),
    "length": (LengthPrefixed, {"prefix_bytes": "prefix_bytes", "order": "order", "max_bytes": "max_bytes"}),
    "fixed": (Fixed, {"size": "size"}),
    "delimited": (Delimited, {"delimiter": "delimiter", "max_bytes": "max_bytes"}),
}
OPTIONS = frozenset({"framing", *(option for _, options in _KINDS.values() for option in options)})
"""The names of a framing's options in a listener's text."""


def from_options(options: dict[str, str]) -> Framing:
    """A framing from what `Framing.options` gives; a delimiter is percent-encoded.

    Raises:
        ConfigurationError: For a name or a value that can't be.
    """
    name = options.get("framing")
    if name is None:
        given = next(iter(options))
        raise ConfigurationError(given, options[given], "is an option of a framing: give framing too")
    if name not in _KINDS:
        raise ConfigurationError("framing", name, "must be one of " + ", ".join(_KINDS))
    framing, fields = _KINDS[name]
    values: dict[str, Any] = {}
    for option, text in options.items():
        if option == "framing":
            continue
        if option not in fields:
            takes = ", ".join(fields) or "no option"
            raise ConfigurationError(option, text, f"is not an option of framing={name}, which takes {takes}")
        values[fields[option]] = _value(option, text)
    return framing(**values)


def _value(option: str, text: str) -> Any:
    if option == "order":
        return text
    if option == "delimiter":
        return unquote_to_bytes(text)
    if option == "newline":
        if text not in ("lf", "crlf"):
            raise ConfigurationError(option, text, "must be one of lf, crlf")
        return text == "crlf"
    if not (text.isascii() and text.isdigit() and len(text) <= 10):
        raise ConfigurationError(option, text, "must be a whole number")
    return int(text)


@lru_cache(maxsize=256)
def struct_of(framing: Framing) -> Any:
    """An iocpd_framing *, which nobody changes."""
    struct = ffi.new("iocpd_framing *")
    framing._fill(struct)
    return struct


class FrameParser:
    """Takes messages out of a stream, whose pieces may be cut anywhere. For one thread at a time."""

    def __init__(self, framing: Framing) -> None:
        self.framing = framing
        native = lib.iocpd_framer_new(struct_of(framing))
        if not native:
            raise MemoryError("no memory for a parser")
        self._native = ffi.gc(native, lib.iocpd_framer_free)
        self._failed = False

    @property
    def pending_bytes(self) -> int:
        """Bytes that wait for the end of their message."""
        held: int = lib.iocpd_framer_bytes(self._native)
        return held

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that became whole with this data.

        Raises:
            FrameTooLarge: By the call after the one that gave the messages before it, or at once if there are none.
        """
        if self._failed:
            raise FrameTooLarge("a message is above the limit of its framing")
        if not data:
            return []
        out = ffi.new("uint8_t[]", self.pending_bytes + len(data))
        lengths, count = ffi.new("uint32_t[]", len(data)), ffi.new("uint32_t *")
        status = lib.iocpd_framer_feed(self._native, ffi.from_buffer(data), len(data), out, lengths, count)
        if status == lib.IOCPD_NO_MEMORY:
            raise MemoryError("no memory for a part of a message")
        messages, at = [], 0
        for length in lengths[0 : count[0]]:
            messages.append(bytes(ffi.buffer(out + at, length)))
            at += length
        if status != lib.IOCPD_OK:
            self._failed = True
            if not messages:
                raise FrameTooLarge("a message is above the limit of its framing")
        return messages
