"""The device's half without JAX: `run.py` and what it runs, as an exported bundle contains them."""
