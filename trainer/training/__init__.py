"""One training from photos to a registered version, its journal and its report."""
