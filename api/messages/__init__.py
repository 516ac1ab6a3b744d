"""Sending to one connection, and the report that says what became of what was sent."""
