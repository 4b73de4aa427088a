"""The operations layer for RAG data."""
