"""Prints the README's test command: the line of its shell blocks that ends in pytest."""

import re
from pathlib import Path

readme = (Path(__file__).parent.parent / "README.md").read_text()
blocks = re.findall(r"```(?:sh|bash)\n(.*?)```", readme, re.DOTALL)
lines = [line for block in blocks for line in block.splitlines() if line.endswith("&& pytest")]
(command,) = lines
print(command)
