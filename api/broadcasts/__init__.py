"""Sending to many connections at once."""
