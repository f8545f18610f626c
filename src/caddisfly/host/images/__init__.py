"""Images on this host: from a reference or an archive to a root file system that a sandbox can be started on.

Deliberately empty: the layer extractor runs as its own short process out of this package, and every import here would
be paid for at its start. Import `caddisfly.host.images.store` for the face of the room.
"""
