"""Control's records in SQL: who may do what, and which apps there are. One code for SQLite and PostgreSQL."""
