"""Volumes: disks that outlive their Machine. They arrive with the volumes issue; until then mounts are refused."""
