"""Who is connected, who was, and ending a connection."""
