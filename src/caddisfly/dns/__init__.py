"""DNS: answers for `.internal` and `.flycast`, from a process's own projection of the catalog.

Empty until private networking is built. Until then Machines use the host's own name servers and reach each other by
address.
"""
