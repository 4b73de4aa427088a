"""The HTTP service: search over the live release, with keys, permissions, limits and an audit log (`ragops serve`)."""
