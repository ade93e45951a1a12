"""The recipe of a planner: demonstrations, tokenizer, training, DAgger, evaluation, model card."""
