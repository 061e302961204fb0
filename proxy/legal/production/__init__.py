"""Productions: the files that answer an instrument, their certificate, manifest and signature, and how they travel.

A production is made once, from a hold and from pinned facts, and kept sealed; delivering it again never reads a record
of the store. What its parts are and what each of them proves is in deploy/docs/production.md.
"""
