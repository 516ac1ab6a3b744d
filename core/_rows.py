"""From the engine's structs to the values of model.py, and from arguments to structs.

A page of 1,000 rows is unpacked by one struct format, since reading single fields through cffi costs far more.
The formats are derived from what the compiler says of the structs, so they can't differ from engine.h.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network
from typing import Any
from weakref import WeakKeyDictionary

from . import labels
from ._native import ffi, lib
from .framing import Framing
from .model import (
    By,
    ClosedConnection,
    Connection,
    DominantAddress,
    DrainProgress,
    EngineInfo,
    Filter,
    ListenerStats,
    Phase,
    Reason,
    Report,
    State,
    WorkerStats,
)

# By the engine's numbers. A connection that has ended shows its last state.
STATES = (State.CLOSING, *State)
assert (lib.IOCPD_FREE, lib.IOCPD_ARRIVING, lib.IOCPD_OPEN, lib.IOCPD_DRAINING, lib.IOCPD_CLOSING_STATE) == (
    0,
    1,
    2,
    3,
    4,
)
REASONS = (
    None,
    *(Reason(ffi.string(lib.iocpd_reason_name(number)).decode()) for number in range(1, lib.IOCPD_REASON_COUNT)),
)
PHASES = tuple(Phase)
assert PHASES.index(Phase.STOPPED) == lib.IOCPD_PHASE_STOPPED
_WHO = {lib.IOCPD_BY_CLIENT: By.CLIENT, lib.IOCPD_BY_OPERATOR: By.OPERATOR, lib.IOCPD_BY_ENGINE: By.ENGINE}
BY = tuple(_WHO[lib.iocpd_reason_by(number)] for number in range(lib.IOCPD_REASON_COUNT))

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MAPPED = bytes(10) + b"\xff\xff"  # what an IPv4 address starts with in 16 bytes
_CODES = {
    "uint8_t": "B",
    "uint16_t": "H",
    "int32_t": "i",
    "uint32_t": "I",
    "int64_t": "q",
    "uint64_t": "Q",
}


def struct_format(ctype: Any) -> str:
    """The struct module's format of a C struct, padding and all."""
    text, at = "", 0
    for _, field in ctype.fields:
        text += f"{field.offset - at}x"
        if field.type.kind == "struct":
            text += struct_format(field.type)
        elif field.type.kind == "array":
            text += f"{ffi.sizeof(field.type)}s"
        else:
            text += _CODES[field.type.cname]
        at = field.offset + ffi.sizeof(field.type)
    return text + f"{ffi.sizeof(ctype) - at}x"


CONNECTION = struct.Struct("=" + struct_format(ffi.typeof("iocpd_connection")))
CLOSED = struct.Struct("=" + struct_format(ffi.typeof("iocpd_closed")))
_NAMES = [name for name, _ in ffi.typeof("iocpd_connection").fields]
_MEMBERS, _REASON, _LABELS = len(_NAMES), _NAMES.index("reason"), _NAMES.index("labels")
assert (CONNECTION.size, CLOSED.size) == (ffi.sizeof("iocpd_connection"), ffi.sizeof("iocpd_closed"))


@lru_cache(maxsize=65536)
def address_text(address: bytes) -> str:
    """An address of 16 bytes as people write it; mapped IPv4 as IPv4."""
    if address.startswith(_MAPPED):
        return socket.inet_ntop(socket.AF_INET, address[12:])
    return socket.inet_ntop(socket.AF_INET6, address)


def address_bytes(text: str) -> bytes:
    """The 16 bytes of a numeric address; IPv4 is mapped."""
    if ":" in text:
        return socket.inet_pton(socket.AF_INET6, text)
    return _MAPPED + socket.inet_pton(socket.AF_INET, text)


def network_bytes(network: IPv4Network | IPv6Network) -> tuple[bytes, int]:
    """A network's address and the length of its prefix, of 128."""
    return address_bytes(str(network.network_address)), network.prefixlen + (96 if network.version == 4 else 0)


def network_text(address: bytes, prefix: int) -> str:
    """Back from network_bytes; a single address without its prefix."""
    text, bits = address_text(address), prefix
    if prefix >= 96 and address.startswith(_MAPPED):
        bits -= 96
        return text if bits == 32 else f"{text}/{bits}"
    return text if bits == 128 else f"{text}/{bits}"


def moment(microseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=microseconds)


def moment_or_none(microseconds: int) -> datetime | None:
    return moment(microseconds) if microseconds else None


def via(address: bytes, port: int) -> tuple[str, int] | None:
    """A balancer's address and port; None: there is none."""
    return (address_text(address), port) if port or any(address) else None


Labels = tuple[dict[str, str], tuple[str, ...]]
_NO_LABELS: Labels = ({}, ())


def _connection(row: Sequence[Any], services: Sequence[str], labels: Labels) -> Connection:
    (
        token,
        serial,
        peer_ip,
        local_ip,
        via_ip,
        peer_port,
        local_port,
        via_port,
        listener,
        worker,
        state,
        reason,
        *rest,
    ) = row
    connected_at, active_at, bytes_in, bytes_out, messages_in, messages_out, pending_bytes, _ = rest
    return Connection(
        token,
        serial,
        listener,
        worker,
        services[listener],
        STATES[state],
        REASONS[reason],
        (address_text(peer_ip), peer_port),
        via(via_ip, via_port),
        (address_text(local_ip), local_port),
        _EPOCH + timedelta(0, 0, connected_at),
        _EPOCH + timedelta(0, 0, active_at),
        bytes_in,
        bytes_out,
        messages_in,
        messages_out,
        pending_bytes,
        *labels,
    )


def _closed(row: Sequence[Any], services: Sequence[str], labels: Labels) -> ClosedConnection:
    closed_serial, closed_at, _, os_error, text = row[_MEMBERS:]
    reason = row[_REASON]
    return ClosedConnection(
        _connection(row[:_MEMBERS], services, labels),
        closed_serial,
        moment(closed_at),
        REASONS[reason] or Reason.IO_ERROR,
        BY[reason],
        text.partition(b"\0")[0].decode(errors="replace"),
        os_error,
    )


def connections(rows: Any, count: int, services: Sequence[str], labels_of: Callable[[int], bytes]) -> list[Connection]:
    """`rows` is an iocpd_connection[]; `services` is each listener's; `labels_of` gives a token's labels as JSON."""
    if not count:
        return []
    return [
        _connection(row, services, labels.from_json(labels_of(row[0])) if row[_LABELS] else _NO_LABELS)
        for row in CONNECTION.iter_unpack(ffi.buffer(rows, count * CONNECTION.size))
    ]


def closed_connections(
    rows: Any, count: int, services: Sequence[str], labels_of: Callable[[Any], bytes]
) -> list[ClosedConnection]:
    """`rows` is an iocpd_closed[]; `labels_of` gives the labels' JSON for one of them."""
    if not count:
        return []
    return [
        _closed(row, services, labels.from_json(labels_of(rows + number)) if row[_LABELS] else _NO_LABELS)
        for number, row in enumerate(CLOSED.iter_unpack(ffi.buffer(rows, count * CLOSED.size)))
    ]


# An engine's struct does not keep what its pointers lead to.
_kept: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()


def filter_struct(filter: Filter | None) -> Any:
    """An iocpd_filter*; without fields it is for all connections."""
    out = ffi.new("iocpd_filter *")
    if filter is None:
        return out
    if filter.ip is not None:
        out.fields |= lib.IOCPD_BY_NETWORK
        out.network, out.prefix = network_bytes(filter.ip)
    if filter.listener is not None:
        out.fields |= lib.IOCPD_BY_LISTENER
        out.listener = filter.listener
    if filter.state is not None:
        out.fields |= lib.IOCPD_BY_STATE
        out.state = STATES.index(filter.state, 1)
    if filter.older_than is not None:
        out.fields |= lib.IOCPD_BY_AGE
        out.older_than_us = round(filter.older_than * 1e6)
    if filter.idle_for is not None:
        out.fields |= lib.IOCPD_BY_IDLE
        out.idle_for_us = round(filter.idle_for * 1e6)
    if filter.min_pending_bytes is not None:
        out.fields |= lib.IOCPD_BY_PENDING
        out.min_pending_bytes = filter.min_pending_bytes
    if filter.min_bytes_in is not None:
        out.fields |= lib.IOCPD_BY_BYTES_IN
        out.min_bytes_in = filter.min_bytes_in
    if filter.min_bytes_out is not None:
        out.fields |= lib.IOCPD_BY_BYTES_OUT
        out.min_bytes_out = filter.min_bytes_out
    if filter.group is not None or filter.tags:
        wanted = labels.encode(filter.tags or {}, [filter.group] if filter.group is not None else [])
        _kept[out] = data = ffi.from_buffer("uint8_t[]", wanted)
        out.fields |= lib.IOCPD_BY_LABELS
        out.labels, out.label_bytes = data, len(wanted)
    return out


def report(row: Any) -> Report:
    return Report(
        matched=row.matched,
        queued=row.queued,
        written=row.written,
        skipped_slow=row.skipped_slow,
        closed_before_write=row.closed_before_write,
        expired=row.expired,
        failed=row.failed,
        done=bool(row.done),
    )


def drain_progress(row: Any) -> DrainProgress:
    return DrainProgress(
        phase=PHASES[row.phase],
        stop=bool(row.stop),
        initial=row.initial,
        remaining=row.remaining,
        evicting=row.evicting,
        cancelled=row.cancelled,
        rate_per_s=row.rate_per_s,
        started_at=moment_or_none(row.started_at_us),
        deadline_at=moment_or_none(row.deadline_at_us),
        ended_at=moment_or_none(row.ended_at_us),
        exits_posted=row.exits_posted,
        exits_taken=row.exits_taken,
    )


def _dominant(row: Any) -> DominantAddress:
    network = network_text(bytes(row.dominant_ip), row.dominant_prefix)
    return DominantAddress(network, row.dominant_connections, moment(row.dominant_at_us))


def engine_info(row: Any) -> EngineInfo:
    return EngineInfo(
        backend=ffi.string(lib.iocpd_backend_name(row.backend)).decode(),
        backend_reason=ffi.string(row.backend_reason).decode(errors="replace"),
        workers=row.workers,
        listeners=row.listeners,
        accepting=bool(row.accepting),
        started_at=moment(row.started_at_us),
        connections=row.connections,
        last_serial=row.last_serial,
        bans=row.bans,
        dominant_address=_dominant(row) if row.dominances else None,
    )


def worker_stats(row: Any) -> WorkerStats:
    return WorkerStats(
        **{
            name: getattr(row, name)
            for name, _ in ffi.typeof(row).item.fields
            if name not in ("closed", "turn_ns", "turn_counts")
        },
        turn_seconds=row.turn_ns / 1e9,
        turn_counts=tuple(row.turn_counts),
        closed={reason: row.closed[number] for number, reason in enumerate(REASONS) if reason},
    )


def listener_stats(row: Any, service: str, framing: Framing) -> ListenerStats:
    return ListenerStats(
        host=address_text(bytes(row.ip)),
        port=row.port,
        service=service,
        framing=framing,
        open=bool(row.open),
        accepted=row.accepted,
        refused_limit=row.refused_limit,
        refused_memory=row.refused_memory,
        refused_gone=row.refused_gone,
        refused_banned=row.refused_banned,
        refused_address_limit=row.refused_address_limit,
        refused_address_rate=row.refused_address_rate,
        refused_rate=row.refused_rate,
        accept_errors=row.accept_errors,
        connections=row.connections,
    )


def cut_text(text: str) -> bytes:
    """At most what the engine keeps; cut here, since C would cut a character in two."""
    return text.encode(errors="replace")[: lib.IOCPD_TEXT_BYTES - 1].decode(errors="ignore").encode()
