"""Checking the access log from what stands (deploy/docs/integrity.md)."""
