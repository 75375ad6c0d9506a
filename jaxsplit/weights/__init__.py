"""Reads weights that other libraries wrote, without them and without running anything in a file."""
