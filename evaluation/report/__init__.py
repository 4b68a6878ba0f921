"""Results as tables, CSV, JSON and a page."""
