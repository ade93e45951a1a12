"""The recipe of `erecap bench-quality`: what pruning costs a model, measured on text that the user names."""
