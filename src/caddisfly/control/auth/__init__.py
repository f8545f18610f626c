"""Who is calling, and what may they reach: decided before anything is looked up in full."""
