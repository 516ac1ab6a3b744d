"""The compiled binding; core/native/engine.h says what is in it."""

from typing import Any

ffi: Any
lib: Any
