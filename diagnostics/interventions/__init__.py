"""One file per intervention."""
