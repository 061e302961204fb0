"""Sealing records again: rolling and re-mapping.

The one place besides proxy/disclosure that opens records, and it only seals them again: it returns counts, never rows.
"""
