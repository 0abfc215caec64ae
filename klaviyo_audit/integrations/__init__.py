"""Carrying the actor through frameworks, queues and threads."""
