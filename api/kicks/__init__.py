"""Ending many connections at once."""
