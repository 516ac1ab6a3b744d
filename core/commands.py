"""What an engine can be asked to do with connections. Engine inherits these methods.

A `submit_` method returns at once with a Command, whose future is done when the engine has done it. Its result is given
below as the type in Command[...]; the errors that a future can have are given as "set on the future".
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from ipaddress import IPv4Network, IPv6Network
from typing import Any, Literal, TypeVar

from . import _rows, labels
from ._native import ffi, lib
from ._run import Command, Run
from .config import milliseconds
from .errors import ConfigurationError, ConnectionUnknown, EngineStopped, EngineTimeout, LabelsChanged
from .model import ClosedConnection, Connection, Filter, KickOutcome, Reason, Report

T = TypeVar("T")
Network = IPv4Network | IPv6Network

# A kick's timeout is the client's; the engine then resets the connection, and gets so long to tell.
_KICK_MARGIN = 5.0
_TOKEN_BITS = 53
_BYTES_MAX = 1024**3
_OUTCOMES = (
    KickOutcome.FAILED,  # it still waits; nobody asks before the end
    KickOutcome.KICKED,
    KickOutcome.ALREADY_GONE,
    KickOutcome.FAILED,
    KickOutcome.BUSY,
)
assert (lib.IOCPD_WAITING, lib.IOCPD_LEFT, lib.IOCPD_GONE, lib.IOCPD_FAILED, lib.IOCPD_REFUSED) == (0, 1, 2, 3, 4)


class Commands:
    """See the module's text."""

    _run: Run | None

    def _started(self) -> Run:
        run = self._run
        if run is None:
            raise EngineStopped
        return run

    # --- send ---------------------------------------------------------------------------------------------------------

    def submit_send(self, id: int, data: bytes) -> Future[Report]:
        """Queues data on a connection and returns at once; the future is done when the system has taken all of it.

        Data of several sends goes out in the order of the calls of one thread, and never mixed up. It goes out as it
        is: to a listener with a framing, send `framing.encode(message)`.

        Raises:
            ConnectionUnknown: No connection ever had this id.
            ConnectionEnded: It has left the table. Also set on the future, if it ends before the worker gets to it.
            ConnectionClosing: Set on the future: it is on its way out.
            SendQueueFull: Set on the future: nothing was queued, since its queue would go over `send_hard_bytes`.
            EngineBusy: Too many commands wait for the worker.
            ConfigurationError: The data is empty.
        """
        return self._send(id, data).future

    def send(self, id: int, data: bytes, *, timeout: float = 5.0) -> Report:
        """`submit_send`, and waits until the system has taken the data, or the connection has ended before.

        Raises:
            EngineTimeout: Not within `timeout` seconds. The data stays queued.
            Exception: As `submit_send`, with what is set on its future.
        """
        return _wait("the send", self._send(id, data), timeout)

    def _send(self, id: int, data: bytes) -> Command[Report]:
        run, token, view = self._started(), token_of(id), _view("data", data, least=1)
        return run.submit(id, lambda out: lib.iocpd_send(run.native, token, view, len(view), out), _same)

    # --- kick ---------------------------------------------------------------------------------------------------------

    def submit_kick(
        self, id: int, *, text: str = "", farewell: bytes = b"", force: bool = False, timeout: float = 5.0
    ) -> Future[ClosedConnection | None]:
        """Begins to end a connection and returns at once; the future is done when it has left the table.

        What is queued is sent, then the farewell, then the end of the stream; the client then has until the timeout to
        close its side. What a service in Python has not answered yet is not waited for, also where the client has shut
        its side already; one that is on its way out otherwise gets no farewell. A kick of a connection that is being
        kicked already joins the first one.

        Args:
            id: The connection's.
            text: For the record, why; cut to 199 bytes of UTF-8.
            farewell: Sent last.
            force: Reset it at once: nothing more is sent, not even the farewell.
            timeout: Seconds after which it is reset.

        Returns:
            A future of the connection's record, or of None if that is no longer remembered.

        Raises:
            ConnectionUnknown: No connection ever had this id.
            ConnectionEnded: It has left the table. Also set on the future, if it ends before the worker gets to it.
            EngineBusy: Too many commands wait for the worker.
        """
        return self._kick_one(id, text, farewell, force, timeout).future

    def kick(
        self, id: int, *, text: str = "", farewell: bytes = b"", force: bool = False, timeout: float = 5.0
    ) -> ClosedConnection | None:
        """`submit_kick`, and waits until the connection has left the table.

        Raises:
            EngineTimeout: It has not left 5 s after the timeout, at which it is reset.
            Exception: As `submit_kick`, with what is set on its future.
        """
        return _wait("the kick", self._kick_one(id, text, farewell, force, timeout), timeout + _KICK_MARGIN)

    def submit_kicks(
        self,
        ids: Sequence[int],
        *,
        text: str = "",
        farewell: bytes = b"",
        force: bool = False,
        timeout: float = 5.0,
        reason: Reason = Reason.KICKED,
    ) -> Command[list[KickOutcome]]:
        """Begins to end several connections, each as `submit_kick` does; done when all of them have left the table.

        Args:
            ids: The connections', at most 1,024.
            text: As in `submit_kick`, and so are farewell, force and timeout.
            farewell: See text.
            force: See text.
            timeout: See text.
            reason: Reason.KICKED or Reason.BANNED.

        Returns:
            The outcome of each, in the order of the ids.

        Raises:
            ConfigurationError: Too many ids, or another reason.
        """
        if len(ids) > lib.IOCPD_BATCH_MAX:
            raise ConfigurationError("ids", f"{len(ids)} of them", f"must be at most {lib.IOCPD_BATCH_MAX}")
        # One alone would be refused as a whole; the outcome of an id that can't be is that it is gone.
        tokens = [id if 0 <= id < 1 << _TOKEN_BITS else (1 << _TOKEN_BITS) - 1 for id in ids]
        padded = tokens if len(tokens) != 1 else [*tokens, (1 << _TOKEN_BITS) - 1]
        config = _kick_config(text, farewell, force, timeout, reason)
        return self._kick(0, config, padded, lambda report, outcomes: outcomes[: len(ids)])

    def _kick_one(
        self, id: int, text: str, farewell: bytes, force: bool, timeout: float
    ) -> Command[ClosedConnection | None]:
        run, token = self._started(), token_of(id)
        config = _kick_config(text, farewell, force, timeout, Reason.KICKED)
        return self._kick(id, config, [token], lambda report, outcomes: run.closed(token))

    def _kick(self, id: int, config: Any, tokens: list[int], result: Any) -> Command[Any]:
        run, count = self._started(), len(tokens)

        def finish(command: Command[Any], ticket: Any) -> Any:
            raw = ffi.new("uint8_t[]", count)
            lib.iocpd_outcomes_read(ticket, raw)
            return partial(result, outcomes=[_OUTCOMES[outcome] for outcome in raw])

        def begin(out: Any) -> int:
            status: int = lib.iocpd_kick(run.native, config.struct, tokens, count, out)
            return status

        return run.submit(id, begin, read=finish)

    # --- broadcast ----------------------------------------------------------------------------------------------------

    def submit_broadcast(
        self,
        data: bytes,
        filter: Filter | None = None,
        *,
        ids: Sequence[int] | None = None,
        exclude: Collection[int] = (),
        on_slow: Literal["skip", "disconnect"] = "skip",
        ttl: float = 0.0,
    ) -> Command[Report]:
        """Queues data on every connection that matches, and returns at once. None waits for another.

        Args:
            data: What to send.
            filter: To whom; None: to all.
            ids: To these alone, at most 65,536; who has ended is passed over, and so is who does not match the filter.
            exclude: Not to these, at most 65,536.
            on_slow: What becomes of a connection with a full send queue: it is skipped, or ended as slow_consumer too.
            ttl: Seconds after which it is not sent any more to those whose queue has not come to it; 0: always sent.

        Raises:
            EngineBusy: Too many commands wait for a worker; nothing was sent to anybody.
            ConfigurationError: The data is empty, or there are too many ids.
        """
        run, view = self._started(), _view("data", data, least=1)
        for field, several in (("ids", ids or ()), ("exclude", exclude)):
            if len(several) > lib.IOCPD_TARGETS_MAX:
                rule = f"must be at most {lib.IOCPD_TARGETS_MAX}"
                raise ConfigurationError(field, f"{len(several)} of them", rule)
        if on_slow not in ("skip", "disconnect"):
            raise ConfigurationError("on_slow", on_slow, "must be skip or disconnect")
        config, which = ffi.new("iocpd_broadcast_config *"), _rows.filter_struct(filter)
        targets = ffi.NULL if ids is None else ffi.new("uint64_t[]", [*filter_tokens(ids), 0])
        excluded = ffi.new("uint64_t[]", sorted(filter_tokens(exclude)))
        config.filter, config.data, config.bytes = which, view, len(view)
        config.targets, config.target_count = targets, 0 if ids is None else len(targets) - 1
        config.exclude, config.exclude_count = excluded, len(excluded)
        config.disconnect_slow = on_slow == "disconnect"
        config.ttl_ms = milliseconds("ttl", ttl)
        return run.submit(0, lambda out: lib.iocpd_broadcast(run.native, config, out), _same)

    def broadcast(self, data: bytes, filter: Filter | None = None, *, timeout: float = 5.0, **options: Any) -> Report:
        """`submit_broadcast` with its options, and waits until each send is completed or its connection has ended.

        Returns:
            The report; if `timeout` seconds were not enough, as it is then, with `done` False. What is queued stays
            queued.
        """
        command = self.submit_broadcast(data, filter, **options)
        try:
            return command.future.result(timeout)
        except TimeoutError:
            return command.report()

    # --- labels -------------------------------------------------------------------------------------------------------

    def submit_label(
        self, id: int, *, tags: Mapping[str, str | None] | None = None, groups: Sequence[str] | None = None
    ) -> Command[Connection]:
        """Changes a connection's tags and groups.

        Args:
            id: The connection's.
            tags: Tags to set, and with None those to take away; the others stay. At most 16 in all.
            groups: The groups that it is in from now on, at most 16; None: as they are.

        Returns:
            The connection afterwards.

        Raises:
            ConfigurationError: What can't be a tag or a group, or too many.
            ConnectionUnknown: No connection ever had this id.
            ConnectionEnded: It has left the table. Also set on the future.
            ConnectionClosing: Set on the future: it is on its way out.
            LabelsChanged: Set on the future: somebody else has changed them meanwhile. `label` tries again.
            EngineBusy: Too many commands wait for the worker.
        """
        run, token = self._started(), token_of(id)
        before, version = run.labels(token)
        had, was_in = labels.from_json(before)
        new_tags = {key: value for key, value in {**had, **(tags or {})}.items() if value is not None}
        new_groups = list(dict.fromkeys(was_in if groups is None else groups))
        labels.check_labels(new_tags, new_groups)
        for key in tags or {}:
            labels.check_tag(key, "")
        data, (tags_json, groups_json) = labels.encode(new_tags, new_groups), labels.to_json(new_tags, new_groups)

        text = tags_json + groups_json

        def begin(out: Any) -> int:
            status: int = lib.iocpd_label(
                run.native, token, version, data, len(data), text, len(tags_json), len(text), out
            )
            return status

        return run.submit(id, begin, lambda _: run.connection(token))

    def label(
        self,
        id: int,
        *,
        tags: Mapping[str, str | None] | None = None,
        groups: Sequence[str] | None = None,
        timeout: float = 5.0,
    ) -> Connection:
        """`submit_label`, tried again when somebody else was quicker, and waits for it.

        Raises:
            EngineTimeout: Not within `timeout` seconds.
            Exception: As `submit_label`, but LabelsChanged.
        """
        while True:
            try:
                return _wait("the change of labels", self.submit_label(id, tags=tags, groups=groups), timeout)
            except LabelsChanged:
                continue

    # --- bans ---------------------------------------------------------------------------------------------------------

    def submit_bans(self, add: Sequence[tuple[Network, float]] = (), remove: Sequence[Network] = ()) -> Command[None]:
        """Bans networks: connections from them are refused. Those that are there stay. First lifts those to remove.

        Args:
            add: Networks, and seconds until each ban ends by itself (0: never). One that is banned gets the new time.
            remove: Networks whose ban is lifted; one that is not banned is no error. A ban of a network that holds
                it, or that it holds, is another ban.

        Returns:
            None, when it is in force.

        Raises:
            ConfigurationError: More than 1,024 together, or a time that can't be.
            BanTableFull: Set on the future: there are `max_bans`.
            EngineBusy: Too many commands wait for the worker.
        """
        run, count = self._started(), len(add) + len(remove)
        if count > lib.IOCPD_BATCH_MAX:
            raise ConfigurationError("bans", f"{count} of them", f"must be at most {lib.IOCPD_BATCH_MAX} at once")
        rows = ffi.new("iocpd_ban[]", count)
        for row, network in zip(rows, remove, strict=False):
            row.network, row.prefix = _rows.network_bytes(network)
            row.lift = 1
        for row, (network, ttl) in zip(rows[len(remove) : count], add, strict=True):
            row.network, row.prefix = _rows.network_bytes(network)
            if not 0 <= ttl <= 1e9:
                raise ConfigurationError("ttl", ttl, "must be from 0 to 1e9 seconds")
            row.ttl_ms = max(round(ttl * 1000), 1) if ttl else 0
        return run.submit(0, lambda out: lib.iocpd_bans(run.native, rows, count, out), _nothing)

    def note_ban(self, network: Network, text: str, *, lifted: bool = False) -> None:
        """Puts a ban, or its end, among the events. `text` is cut to 199 bytes of UTF-8."""
        kind = lib.IOCPD_EVENT_UNBAN if lifted else lib.IOCPD_EVENT_BAN
        lib.iocpd_event_note(self._started().native, kind, *_rows.network_bytes(network), _rows.cut_text(text))

    # --- asking -------------------------------------------------------------------------------------------------------

    def submit_rtt(self, id: int) -> Command[float | None]:
        """Asks the system for the smoothed round trip time of a connection.

        Returns:
            Seconds, or None where the system does not tell.

        Raises:
            ConnectionUnknown: No connection ever had this id.
            ConnectionEnded: It has left the table. Also set on the future.
            EngineBusy: Too many commands wait for the worker.
        """
        run, token = self._started(), token_of(id)

        def read(command: Command[Any], ticket: Any) -> Any:
            row = ffi.new("iocpd_report *")
            lib.iocpd_ticket_read(ticket, row)
            seconds = row.rtt_us / 1e6 if row.rtt_us >= 0 else None
            return lambda _: seconds

        return run.submit(id, lambda out: lib.iocpd_rtt(run.native, token, out), read=read)

    def submit_barrier(self) -> Command[None]:
        """Done when each worker has worked off what was asked of it before.

        So every connection that was let in before the call is in the table, or has ended.
        """
        run = self._started()
        return run.submit(0, lambda out: lib.iocpd_barrier(run.native, out), _nothing)


class _KickConfig:
    """The engine's struct, and what its pointers lead to."""

    def __init__(self, text: bytes, farewell: Any, force: bool, timeout_ms: int, reason: int) -> None:
        self._held = ffi.new("char[]", text), farewell
        self.struct = ffi.new("iocpd_kick_config *")
        self.struct.reason = reason
        self.struct.force = force
        self.struct.timeout_ms = timeout_ms
        self.struct.text, self.struct.farewell = self._held
        self.struct.farewell_bytes = len(farewell)


def _kick_config(text: str, farewell: bytes, force: bool, timeout: float, reason: Reason) -> _KickConfig:
    if reason not in (Reason.KICKED, Reason.BANNED):
        raise ConfigurationError("reason", reason, "must be kicked or banned")
    number, view = _rows.REASONS.index(reason), _view("farewell", farewell)
    return _KickConfig(_rows.cut_text(text), view, force, milliseconds("timeout", timeout), number)


def filter_tokens(ids: Collection[int]) -> list[int]:
    """Those that can be a connection's."""
    return [id for id in ids if 0 <= id < 1 << _TOKEN_BITS]


def _same(report: Report) -> Report:
    return report


def _nothing(report: Report) -> None:
    return None


def token_of(id: int) -> int:
    """The engine's form of an id; ConnectionUnknown if it can't be one."""
    if not 0 <= id < 1 << _TOKEN_BITS:
        raise ConnectionUnknown(id)
    return id


def _view(field: str, data: bytes, *, least: int = 0) -> Any:
    """The bytes as C sees them, for as long as the result is held."""
    view = ffi.from_buffer("uint8_t[]", data)
    if not least <= len(view) <= _BYTES_MAX:
        raise ConfigurationError(field, f"{len(view)} bytes", f"must be from {least} to {_BYTES_MAX} bytes")
    return view


def _wait(what: str, command: Command[T], timeout: float) -> T:
    try:
        return command.future.result(timeout)
    except TimeoutError:
        raise EngineTimeout(what, timeout, command.report()) from None
    finally:
        del command  # an error's traceback has this frame, and would keep the engine's memory through it
