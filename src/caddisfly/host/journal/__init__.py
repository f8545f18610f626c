"""The journal: a host's durable record of its Machines and of the work under way on them."""
