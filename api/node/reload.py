"""Reading the settings again while the service runs.

Everything is checked first and then changed at once, on the event loop: settings that can't be used change nothing.
"""

from iocpd.api import logs
from iocpd.api.context import Context
from iocpd.api.keys import KeyFileError
from iocpd.api.node.schemas import ReloadView, SettingChange
from iocpd.api.settings import Settings, SettingsError
from iocpd.core import CHANGEABLE, ConfigurationError

_LOG = frozenset({"log_level", "log_format"})
_AUDIT = frozenset({"audit_max_bytes", "audit_files"})
# Whoever needs one of these takes it from the context each time.
_READ_EACH_TIME = frozenset(
    {
        "drain_lb_delay",
        "drain_grace",
        "drain_rate_per_s",
        "drain_deadline",
        "max_message_bytes",
        "messages_per_s_per_connection",
        "access_log",
    }
)
RELOADABLE = CHANGEABLE | _LOG | _AUDIT | _READ_EACH_TIME
"""The settings that can change while the service runs."""


def reload(context: Context) -> ReloadView:
    """Reads settings and keys again and puts in force what can be. SettingsError, and nothing has changed;
    iocpd.core.EngineStopped.
    """
    current, wanted = context.settings, context.reread()
    keys = context.gate.keys
    try:
        key_file = keys.look()
    except KeyFileError as error:
        raise SettingsError([str(error)]) from None
    different = {name for name in Settings.model_fields if getattr(current, name) != getattr(wanted, name)}
    changing = different & RELOADABLE
    try:
        if limits := {name: getattr(wanted, name) for name in changing & CHANGEABLE}:
            context.engine.configure(**limits)
    except ConfigurationError as error:
        raise SettingsError([str(error)]) from None
    context.settings = current.model_copy(update={name: getattr(wanted, name) for name in changing})
    if changing & _LOG:
        logs.configure(wanted.log_level, wanted.log_format)
    if changing & _AUDIT:
        context.audit.configure(max_bytes=wanted.audit_max_bytes, files=wanted.audit_files)
    before = keys.count
    other_keys = key_file is not None and keys.take(key_file)
    changed = [_change(name, current, wanted) for name in Settings.model_fields if name in changing]
    if other_keys:
        changed.append(SettingChange(name="keys", before=str(before), after=str(keys.count)))
    late = [_change(name, current, wanted) for name in Settings.model_fields if name in different - changing]
    return ReloadView(changed=changed, needs_restart=late)


def _change(name: str, before: Settings, after: Settings) -> SettingChange:
    return SettingChange(name=name, before=_shown(getattr(before, name)), after=_shown(getattr(after, name)))


def _shown(value: object) -> str:
    """A value as one writes it in the settings."""
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case float():
            return f"{value:g}s"  # every number with a fraction is a duration
        case tuple() if type(value) is tuple:
            return ",".join(map(str, value))
    return str(value)
