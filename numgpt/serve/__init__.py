"""Serve a model to programs and browsers: one running batch behind an HTTP API."""
