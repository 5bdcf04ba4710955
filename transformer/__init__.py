"""The 2017 Transformer."""
