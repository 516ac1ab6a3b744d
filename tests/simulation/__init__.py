"""The engine under deterministic simulation: the whole of it on one thread, against a simulated kernel and a simulated
clock, everything decided by one seed. README.md beside this file says how it works and how to follow a seed."""
