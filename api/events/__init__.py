"""What happens, as it happens: a stream of events for whoever watches."""
