"""Versions of our own algorithms, part of the fingerprints of what they make. Read without loading the algorithms."""

CHUNKER = 1  # raise it when chunk.py may give other chunks of the same input
