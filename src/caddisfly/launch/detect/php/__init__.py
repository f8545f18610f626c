"""PHP apps: Laravel, and everything else that Apache serves."""
