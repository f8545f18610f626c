"""The platform's own registry: the OCI distribution API over a directory that this host's agent reads, too."""
