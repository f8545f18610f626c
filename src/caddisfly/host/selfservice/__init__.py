"""`/.fly/api`: the socket in every Machine at which it may ask about, and change, itself (reference 5.3).

The agent answers, not control. Who is asking is known from the socket that the question came through, so there is no
token to issue, to steal or to revoke; and a Machine can stop itself, or read its metadata, while bus and control are
down.
"""
