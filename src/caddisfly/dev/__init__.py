"""`caddis dev`: the whole Machines API in one process, on computers that are made up."""
