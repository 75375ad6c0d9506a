"""Files and what is said on the way: atomic writes, checkpoints, the array cache, progress."""
