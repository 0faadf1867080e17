"""Paths, secrets, and files written whole or not at all."""
