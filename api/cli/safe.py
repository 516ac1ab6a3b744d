"""Text that others wrote, made safe for a terminal.

Tags, reasons and the like come from whoever holds a key, and details of errors from whatever answered. A control
character or an escape sequence among them could recolour, retitle or rewrite the terminal, and a change of direction
could make one thing look like another.
"""

import json
import re
import unicodedata

# Controls, formats (among them every change of direction and what has no width), surrogates, and breaks of lines and
# paragraphs.
_HOSTILE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_SIMPLE = {"\t": "\\t", "\n": "\\n", "\r": "\\r", "\x1b": "\\e"}
# The same, for what json.dumps(ensure_ascii=False) leaves as it is.
_SUSPECT = re.compile(
    "[\x7f-\x9f\u00ad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\ud800-\udfff\ufeff\ufff9-\ufffb\U000110bd-\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0001-\U000e007f]"
)


def safe(text: str) -> str:
    """The text on one line, with what a terminal would act upon written as an escape; backslashes stay as they are."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        _escape(character) if unicodedata.category(character) in _HOSTILE else character for character in text
    )


def safe_json(value: object) -> str:
    """Compact JSON on one line that means the same, with what a terminal would act upon as \\u escapes."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text if text.isascii() and "\x7f" not in text else _SUSPECT.sub(_json_escape, text)


def _escape(character: str) -> str:
    if character in _SIMPLE:
        return _SIMPLE[character]
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _json_escape(match: re.Match[str]) -> str:
    units = match[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at] << 8 | units[at + 1]:04x}" for at in range(0, len(units), 2))
