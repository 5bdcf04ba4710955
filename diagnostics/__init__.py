"""Diagnosis of any PyTorch training setup."""
