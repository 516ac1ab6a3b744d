"""Addresses that are kept away: while the service runs, and after it was started again."""
