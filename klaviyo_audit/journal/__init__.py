"""The journal: one append-only file of JSON lines that all processes of a host share."""
