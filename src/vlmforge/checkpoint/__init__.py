"""Sharded save and resume."""
