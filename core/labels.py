"""Tags and groups of connections: what they may be, and how the engine keeps them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

from .errors import ConfigurationError

LABELS_MAX = 16
"""Tags that a connection may have, and groups that it may be in."""
VALUE_BYTES_MAX = 128

_NAME = re.compile(r"[A-Za-z0-9._/-]{1,64}")
_NAME_RULE = "must be 1 to 64 letters, digits, dots, dashes, slashes and underscores"


def check_group(group: str) -> None:
    """ConfigurationError if it can't be a group's name."""
    if not isinstance(group, str) or not _NAME.fullmatch(group):
        raise ConfigurationError("group", group, _NAME_RULE)


def check_tag(key: str, value: str) -> None:
    """ConfigurationError if it can't be a tag."""
    if not isinstance(key, str) or not _NAME.fullmatch(key):
        raise ConfigurationError("tag", key, _NAME_RULE)
    if not isinstance(value, str) or not value.isprintable():
        raise ConfigurationError(f"tag {key}", value, "must be printable text on one line")
    if len(value.encode(errors="replace")) > VALUE_BYTES_MAX:
        raise ConfigurationError(f"tag {key}", value, f"must be at most {VALUE_BYTES_MAX} bytes of UTF-8")


def check_labels(tags: Mapping[str, str], groups: Sequence[str]) -> None:
    """ConfigurationError if a connection can't have these."""
    for key, value in tags.items():
        check_tag(key, value)
    for group in groups:
        check_group(group)
    for field, count in (("tags", len(tags)), ("groups", len(groups))):
        if count > LABELS_MAX:
            raise ConfigurationError(field, f"{count} of them", f"must be at most {LABELS_MAX}")


def encode(tags: Mapping[str, str], groups: Sequence[str]) -> bytes:
    """As iocpd_label wants them: groups first."""
    labels = [b"g" + _counted(group) for group in groups]
    labels += [b"t" + _counted(f"{key}:{value}") for key, value in tags.items()]
    return b"".join(labels)


def _counted(text: str) -> bytes:
    data = text.encode()
    return len(data).to_bytes(2, "little") + data


def to_json(tags: Mapping[str, str], groups: Sequence[str]) -> tuple[bytes, bytes]:
    """Two members of an object, each with a comma before it."""
    return _member("tags", dict(tags)), _member("groups", list(groups))


def _member(name: str, value: object) -> bytes:
    return f',"{name}":{json.dumps(value, ensure_ascii=False, separators=(",", ":"))}'.encode()


def from_json(members: bytes) -> tuple[dict[str, str], tuple[str, ...]]:
    """Back from both of to_json; empty: neither tags nor groups."""
    if not members:
        return {}, ()
    both = json.loads(b"{" + members[1:] + b"}")
    return both["tags"], tuple(both["groups"])
