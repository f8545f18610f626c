"""The edge: the proxy in front of every Machine. It routes, balances, wakes, and otherwise stays out of the way.

The hot path (a request on a connection that is already open, to a Machine that is up) makes no task, no future and no
dictionary of headers: bytes come in, are checked, and go out in one write. Everything else (waking, connecting,
trying again) runs in one task per request, `delivery`.
"""
