"""The text tower as a folder that plain sentence-transformers loads."""

from pathlib import Path

from torch import nn

from recsys.errors import InputError
from recsys.models.checkpoint import load_retriever
from recsys.models.export import export_sentence_transformers
from recsys.retrieval.embed import TextReader
from recsys.shards import publish_folder


def export_text_tower(model_folder: Path, folder: Path, *, overwrite: bool) -> Path:
    """Write the text path of a retriever (items' texts and queries share it) as a sentence-transformers folder.

    Its vectors are the retriever's item vectors, where the tower is text only. One with more sources is refused: its
    text path alone is not what the retriever searches with.
    """
    model = load_retriever(model_folder)
    if model.dynamic is not None:
        raise InputError(
            f"{model_folder} has items that depend on who is looking (model.dynamic), and sentence-transformers cannot "
            "hold them. Train without model.dynamic."
        )
    if not model.text_only or model.text is None or model.config.text is None:
        raise InputError(
            f"{model_folder} is not text only: it has an id vector, categories or numbers, which sentence-transformers "
            "cannot hold. Train with model.id_vector: false and text columns alone."
        )
    if folder.exists() and not overwrite:
        raise InputError(f"{folder} exists. Replace it with --overwrite=true, or name another with --output=DIR.")
    words = TextReader.open(model_folder, model, "")
    assert words is not None
    dense = model.items.text if isinstance(model.items.text, nn.Linear) else None
    with publish_folder(folder) as made:
        export_sentence_transformers(
            model.text, words.tokenizer, made, pooling=model.config.text.pooling, max_tokens=model.text.max_tokens,
            dense=dense, normalize=model.config.normalize,
        )  # fmt: skip
    return folder
