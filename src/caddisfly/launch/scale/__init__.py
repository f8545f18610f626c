"""How many Machines a process group has, where, and how large they are (reference fly-launch, 3.1 to 3.3)."""
