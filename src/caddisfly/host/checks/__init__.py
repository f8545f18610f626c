"""Health checks: the agent asks the Machines of its host whether they are well, and says so in the catalog."""
