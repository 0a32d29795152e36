"""Makes the picture of a prediction and its alt text, in the reply's language."""

from __future__ import annotations

import numpy as np

from bot.entities import Prediction
from bot.reply.fonts import writable
from bot.reply.picture import Bar, draw_card
from bot.reply.writer import Writer


def illustrate(prediction: Prediction, writer: Writer, *, language: str) -> tuple[bytes, str] | None:
    """Returns a JPEG and its alt text; None if there is no thumbnail."""
    if prediction.thumbnail is None:
        return None
    # English texts are the fallback if no font has the letters of the others.
    languages = (language, "en")
    names = {each: writable(writer.name(prediction.label, each)) for each in languages}
    bars = [Bar(tuple(writer.name(label, each) for each in languages), score) for label, score in prediction.scores]
    if prediction.is_known:
        name, heatmap = "sure" if prediction.sure else "unsure", prediction.heatmap
    else:  # nothing spoke for a gallery
        name, heatmap, bars = "unknown", np.zeros_like(prediction.heatmap), []
    jpeg = draw_card(
        prediction.thumbnail,
        heatmap,
        bars,
        headline=tuple(writer.texts.say(each, name, gallery=names[each]) for each in languages if names[each]),
        footer=tuple(writer.texts.say(each, "version", version=prediction.version) for each in languages),
        scale=(
            tuple(writer.texts.say(each, "cold") for each in languages),
            tuple(writer.texts.say(each, "hot") for each in languages),
        )
        if prediction.is_known
        else None,
        view=prediction.view,
        crop=prediction.crop if prediction.is_known else None,
    )
    return jpeg, writer.describe(prediction, language=language)
