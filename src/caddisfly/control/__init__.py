"""Control: the API server, the accounts and records behind it, and the market that places Machines.

It owns users, organizations, tokens and apps, in SQL. It owns no Machine: each lives on its host, and control asks the
host, then answers from the catalog's copy (docs/architecture.md).
"""
