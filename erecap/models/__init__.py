"""Stock transformers models: loading them, their parts and masks, their tokenizers, and the pruner that belongs to one."""
