"""Which seeds are held out, in every world: nothing may be trained or fitted on them."""

HELD_OUT = 1_000_000
"""The first held-out seed. Results are measured on seeds from here on."""
