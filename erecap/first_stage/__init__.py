"""Where pruning may start in a model: what its answers lose, by the layer of the first stage.

It measures given schedules on given prompts, and chooses among the results. It reads no recordings and draws nothing.
"""
