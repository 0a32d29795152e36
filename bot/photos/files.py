"""Classifies photos on this machine as the bot would, and saves the picture of an answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from bot.config import Settings
from bot.entities import Prediction
from bot.photos import predict
from bot.reply.card import illustrate
from bot.reply.picture import PHOTO_BOX
from bot.reply.texts import load_texts
from bot.reply.writer import Writer
from trainer.errors import ImageError, ProjectError, StorageError
from trainer.photos.decode import Decoder
from trainer.photos.views import is_of_figure


def classified(files: Sequence[Path], settings: Settings) -> Iterator[tuple[Path, Prediction | ProjectError]]:
    """Each file with the champion's prediction and a thumbnail, or why there is none.

    Raises:
        ModelError: there is no champion, or it cannot be loaded.
    """
    classifier = predict.ServingLoader(settings).load()
    with Decoder(settings.images) as decoder:
        for path in files:
            try:
                data = path.read_bytes()
                prepared = decoder.views(data, [classifier.view])
                found = predict.prediction(classifier, classifier.predict(prepared)[0])
                thumbnail = decoder.thumbnail(data, max_width=PHOTO_BOX[0], max_height=PHOTO_BOX[1])
                crop = decoder.figures(data).box if is_of_figure(classifier.view) else None
                is_known = found.is_known or not settings.bot.refuse_unknown
                yield path, replace(found, is_known=is_known, thumbnail=thumbnail, crop=crop)
            except OSError as error:
                yield path, ImageError(f"cannot be read: {error.strerror}")
            except ImageError as error:
                yield path, error


class CardWriter:
    """Saves the picture of an answer, in one language."""

    def __init__(self, settings: Settings, path: Path, *, language: str) -> None:
        """Check what can be checked before anything is computed.

        Raises:
            ConfigError: the texts cannot be read.
            ValueError: the file exists, or cannot be a JPEG there; or there are no texts in the language.
        """
        texts = load_texts(settings.bot.texts)
        if language not in texts.templates:
            raise ValueError(f"{language}: no such language; there are: {', '.join(texts.templates)}")
        if path.suffix.lower() not in (".jpg", ".jpeg"):
            raise ValueError(f"{path}: the picture is a JPEG; give a name that ends in .jpg")
        if not path.parent.is_dir():
            raise ValueError(f"{path}: there is no folder {path.parent}; make it first")
        if path.is_symlink() or path.exists():
            raise ValueError(f"{path}: exists already; give another name, or delete it first")
        self._path = path
        self._language = language
        self._writer = Writer(texts, settings.bot.labels, widest=settings.bot.visibility)

    def save(self, prediction: Prediction) -> tuple[str, str]:
        """Write the picture of a prediction with a thumbnail; returns the answer's sentence and the alt text.

        Raises:
            StorageError: it cannot be written, or the file exists now.
        """
        drawn = illustrate(prediction, self._writer, language=self._language)
        assert drawn is not None  # noqa: S101 - there is a thumbnail
        jpeg, description = drawn
        try:
            with self._path.open("xb") as file:
                file.write(jpeg)
        except OSError as error:
            raise StorageError(f"{self._path}: cannot be written: {error.strerror}") from error
        return self._writer.sentence(prediction, self._language), description
