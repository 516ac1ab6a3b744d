"""The process: what it is, where it listens, draining it and shutting it down."""
