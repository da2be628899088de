"""The execution guide as software."""
