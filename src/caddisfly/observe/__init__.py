"""What the platform tells about itself: for now, its logs."""
