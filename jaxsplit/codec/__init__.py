"""Sender and receiver: images to frames on the device, frames to predictions on the server.

Both run the unit in float32 at the highest matrix precision. Frames hold integers coded under
integer tables, so any machine decodes a frame to exactly the symbols that were sent.
"""

from jaxsplit.codec.batch_receiver import BatchReceiver
from jaxsplit.codec.receiver import Receiver
from jaxsplit.codec.sender import Sender

__all__ = ["BatchReceiver", "Receiver", "Sender"]
