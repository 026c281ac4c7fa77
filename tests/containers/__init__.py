"""The real Dockerfile, compose file and manifests, run without a Docker engine.

Needs root and Debian's packages (:func:`tests.containers.engine.missing`). Images of others
cannot be pulled: stand-ins of the same names are built from Debian's packages and wheels.
"""
