"""A photo gallery with the API of Cure WorldCosplay; its photos are drawn by a program."""

from sandbox.gallery.app import Options, create_app
from sandbox.gallery.collection import Gallery, Member, Photo

__all__ = ["Gallery", "Member", "Options", "Photo", "create_app"]
