"""Sagas to read and to run: ``python -m examples.approval``."""
