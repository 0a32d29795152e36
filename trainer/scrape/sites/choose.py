"""Opens the configured source; a new site is added here and in `trainer.config`."""

from __future__ import annotations

from trainer.config import Settings
from trainer.scrape.sites.folder import FolderSite
from trainer.scrape.sites.site import Site
from trainer.scrape.sites.worldcosplay import WorldCosplaySite
from trainer.web.fetch import Fetcher


def open_site(settings: Settings, fetcher: Fetcher) -> Site:
    """Open the source that `source.kind` names.

    Raises:
        ConfigError: the source cannot be used as configured.
        DatasetError: the source has no usable labels.
    """
    if settings.source.kind == "folder":
        return FolderSite(settings.source.folder, settings.images)
    return WorldCosplaySite(settings.source.worldcosplay, settings.images, fetcher)
