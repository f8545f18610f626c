"""Autostop: Machines that no request needs are stopped or suspended, and the next request wakes them.

`rule` says which ones, `roster` who is there and who decides, `ballot` is a worker's own voice, `decider` brings them
together. The host of a Machine has the last word (host/grants.py).
"""
