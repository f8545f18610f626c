"""The network of Machines on one host: a namespace for each, routed, with default deny between networks."""
