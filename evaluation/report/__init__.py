"""Evaluation results as tables, CSV, JSON and an HTML page."""
