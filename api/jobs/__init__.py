"""What is done to many connections: whom it hits, at what rate, and how it is watched and cancelled."""
