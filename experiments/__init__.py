"""Runs: the only package that composes the other three.

A recipe gives a `RunConfig` (`recipes`, `config`), `training.train` turns it into a `RunRecord` on disk. Importing
this package imports nothing else: each module loads what it uses.
"""
