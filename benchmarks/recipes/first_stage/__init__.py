"""The recipe of `erecap stages`: where pruning may start in a model, measured on recorded prompts or on texts."""
