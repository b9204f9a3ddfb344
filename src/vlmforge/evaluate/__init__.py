"""Scores on held-out samples."""
