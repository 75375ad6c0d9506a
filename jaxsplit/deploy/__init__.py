"""The two halves on two machines: the device's half, exported."""
