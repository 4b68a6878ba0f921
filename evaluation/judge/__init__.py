"""Validation of a sync judge."""
