"""The `microvm` driver: Machines as virtual machines, each with a kernel of its own."""
