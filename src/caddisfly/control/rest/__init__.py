"""The Machines API over HTTP (reference machines-api)."""
