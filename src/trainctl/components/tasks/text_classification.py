"""Classification of texts."""

from __future__ import annotations

from trainctl.components.tasks.classification import Classification
from trainctl.registry import TASKS


@TASKS.register("text_classification")
class TextClassification(Classification):
    """One class a text: a sample is the numbers of its tokens, of any type of whole numbers, 0 behind it."""

    name = "text_classification"
    metric_tasks = ("text_classification", "classification")
    example = (
        "dataset=csv_text", "++dataset.length=8", "model=embedding_bag", "++model.buckets=64",
    )  # fmt: skip
