"""Sandboxes from OCI bundles. One driver; crun, runc or runsc is a setting."""
