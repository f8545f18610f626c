"""An app's Machines for whoever changes many of them, as deploys, scaling and restarts do: what was deployed, holding
their Leases, changing one and seeing it up again."""
