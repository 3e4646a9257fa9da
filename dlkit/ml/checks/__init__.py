"""Is this split honest? One module a question; each answers with a Finding about the same two Sides."""
