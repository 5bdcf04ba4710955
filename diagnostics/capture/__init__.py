"""Capture: a subject out of an unmodified training script."""
