"""The bus: where control, hosts and edges meet. NATS underneath, never a source of truth.

Everything on the bus can be lost and made again by its owner: calls are retried or refused, the catalog is published
again, logs are a live view of files.
"""
