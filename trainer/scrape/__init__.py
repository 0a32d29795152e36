"""From a source's pages to photos in the manifest."""
