"""Whole numbers in a JSON body."""

from pydantic import BeforeValidator


def _check(value: object) -> object:
    if isinstance(value, (bool, str)):
        raise ValueError("write a whole number, without quotes")
    return value


NoText = BeforeValidator(_check)
"""After the bounds of an int: in the body it is a number, and neither "5" nor true. 5.0 is 5, as in JSON Schema."""
