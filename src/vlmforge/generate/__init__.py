"""Batched text generation."""
