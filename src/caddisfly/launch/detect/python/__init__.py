"""Python apps: which packages they need and with which tool, and the image that all of them share."""
