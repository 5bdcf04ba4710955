"""A byte-pair tokenizer."""
