"""Runs: the only package that composes the other three."""
