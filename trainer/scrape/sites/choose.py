"""Opens the source that the settings name; a new site is added here and in `trainer.config`."""

from __future__ import annotations

from trainer.config import Settings
from trainer.scrape.sites.folder import FolderSite
from trainer.scrape.sites.site import Site
from trainer.scrape.sites.worldcosplay import WorldCosplaySite
from trainer.web.fetch import Fetcher


def open_site(settings: Settings, fetcher: Fetcher) -> Site:
    """The source that `source.kind` names.

    Raises:
        ConfigError: it cannot be used as it is configured.
        DatasetError: it holds nothing that can be learned from.
    """
    if settings.source.kind == "folder":
        return FolderSite(settings.source.folder, settings.images)
    return WorldCosplaySite(settings.source.worldcosplay, settings.images, fetcher)
