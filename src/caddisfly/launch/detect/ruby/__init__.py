"""Ruby apps: gems and the version they want, Rails, and everything on Rack."""
