"""The two ends of a split network: images to bytes on the device, bytes to predictions behind it.

Both ends run the unit in float32 at the highest matrix precision. What crosses is integers under
integer tables, so any machine decodes a frame to the very symbols that were sent.
"""

from jaxsplit.codec.receiver import Receiver
from jaxsplit.codec.sender import Sender

__all__ = ["Receiver", "Sender"]
