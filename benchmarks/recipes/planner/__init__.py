"""The recipe of the bundled planner: demonstrations, tokenizer, training, DAgger, evaluation, model card."""
