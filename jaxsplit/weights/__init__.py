"""Reads weights of other libraries, without those libraries and without executing file content."""
