"""Every operation of the API, and the scope that a key needs for it.

Clients are generated from the names: one may come, none may change. The scopes are stated here once more, and not read
from where the routes declare them: a slip there shows as a difference.
"""

from __future__ import annotations

OPERATIONS: dict[str, str | None] = {
    "audit-list": "audit:read",
    "bans-create": "bans:write",
    "bans-get": "bans:read",
    "bans-lift": "bans:write",
    "bans-list": "bans:read",
    "broadcasts-cancel": "broadcasts:send",
    "broadcasts-get": "broadcasts:send",
    "broadcasts-send": "broadcasts:send",
    "connections-get": "connections:read",
    "connections-kick": "connections:kick",
    "connections-label": "connections:tag",
    "connections-list": "connections:read",
    "connections-list_closed": "connections:read",
    "events-stream": "connections:read",
    "keys-create": "keys:write",
    "keys-list": "keys:read",
    "keys-revoke": "keys:write",
    "kicks-cancel": "connections:kick",
    "kicks-get": "connections:kick",
    "kicks-start": "connections:kick",
    "listeners-list": "node:read",
    "messages-send": "messages:send",
    "metrics-get": "metrics:read",
    "node-begin_drain": "node:drain",
    "node-cancel_drain": "node:drain",
    "node-get": "node:read",
    "node-get_drain": "node:read",
    "node-reload": "node:reload",
    "node-shutdown": "node:shutdown",
    "probes-live": None,
    "probes-ready": None,
    "probes-started": None,
}
