"""The verbs, a module for each group of them; importing one registers them with the command."""
