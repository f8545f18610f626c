"""The host: an agent that owns Machines and turns them into running sandboxes.

It alone decides about its Machines and keeps their truth in its journal. It knows nothing of accounts or of the other
rooms; it hears from them on the bus and over a Unix socket.
"""
