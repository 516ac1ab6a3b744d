"""Who did what, when, to what, and what came of it: kept in files, and shown by /v1/audit."""
