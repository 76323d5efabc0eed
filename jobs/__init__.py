"""Restore files: what is read, restored and written."""
