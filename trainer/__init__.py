"""The learning side of dokocos: from photos on a site, or in a folder, to a version that can serve."""

__version__ = "0.1.0"
