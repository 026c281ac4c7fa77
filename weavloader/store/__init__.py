"""Where images are kept: one protocol, an embedded store and Weaviate."""
