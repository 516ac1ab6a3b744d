"""Probes for whoever runs the process: is it alive, has it started, should it get new connections."""
