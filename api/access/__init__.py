"""Keys over the API, and bounds on how often somebody may try wrong ones."""
