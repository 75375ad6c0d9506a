"""Bottleneck units: what stands at the cut, encoder on the device and decoder on the server."""
