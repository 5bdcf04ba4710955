"""Benchmarks: each writes JSON, none is a test."""
