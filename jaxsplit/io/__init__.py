"""Atomic file writes, checkpoints, the array cache, untrusted files, progress and logging."""
