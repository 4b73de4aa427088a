"""Retrievers of other frameworks over `ragops.Retriever`, one module each; install the extra of its name."""
