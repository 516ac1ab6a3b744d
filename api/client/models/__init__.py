"""What the API answers with, as frozen values.

Times are aware datetimes in UTC, sizes are in bytes. A field that a newer service adds is left out here, and a state or
reason that it adds comes as its plain text: an older client goes on working. tests/unit/test_client_contract.py holds
all of this to the OpenAPI document.
"""

from iocpd.api.client.models.access import AuditEntry, AuditPage, Key, KeyList, NewKey, Scope
from iocpd.api.client.models.bans import Ban, BanPage
from iocpd.api.client.models.base import Address, Snapshot
from iocpd.api.client.models.connections import (
    By,
    ClosedConnection,
    ClosedPage,
    Connection,
    ConnectionDetail,
    ConnectionPage,
    Reason,
    Sort,
    State,
)
from iocpd.api.client.models.events import Event, EventData, EventKind
from iocpd.api.client.models.node import (
    Backend,
    Change,
    DominantAddress,
    Drain,
    Framing,
    Limits,
    Listener,
    ListenerList,
    Node,
    Phase,
    Probe,
    Reload,
    ServiceThread,
    Worker,
)
from iocpd.api.client.models.reports import BroadcastReport, JobState, KickOutcome, KickReport, Report

__all__ = [
    "Address",
    "AuditEntry",
    "AuditPage",
    "Backend",
    "Ban",
    "BanPage",
    "BroadcastReport",
    "By",
    "Change",
    "ClosedConnection",
    "ClosedPage",
    "Connection",
    "ConnectionDetail",
    "ConnectionPage",
    "DominantAddress",
    "Drain",
    "Event",
    "EventData",
    "EventKind",
    "Framing",
    "JobState",
    "Key",
    "KeyList",
    "KickOutcome",
    "KickReport",
    "Limits",
    "Listener",
    "ListenerList",
    "NewKey",
    "Node",
    "Phase",
    "Probe",
    "Reason",
    "Reload",
    "Report",
    "Scope",
    "ServiceThread",
    "Snapshot",
    "Sort",
    "State",
    "Worker",
]
