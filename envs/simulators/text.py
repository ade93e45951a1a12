"""The space of the simulators' texts."""

import string

from gymnasium import spaces

SENTENCE = spaces.Text(max_length=100_000, charset=string.printable)
"""Any text that a simulator writes or reads."""
