"""The text tower as a folder that plain sentence-transformers loads."""

from pathlib import Path

from torch import nn
from transformers import AutoTokenizer

from recsys.errors import InputError
from recsys.models.checkpoint import load_retriever
from recsys.models.export import export_sentence_transformers
from recsys.shards import publish_folder


def export_text_tower(model_folder: Path, folder: Path, *, overwrite: bool) -> Path:
    """Write the text path of a retriever (items' texts and queries share it) as a sentence-transformers folder.

    Where the tower is text only, its vectors are the retriever's item vectors. A tower with more sources is refused: its
    text path alone is not what the retriever searches with.
    """
    model = load_retriever(model_folder)
    if not model.text_only or model.text is None:
        raise InputError(
            f"{model_folder} is not text only (it has an id vector, categories or numbers), so sentence-transformers cannot hold it. "
            "Train with model.id_vector: false and text columns alone."
        )
    if folder.exists() and not overwrite:
        raise InputError(f"{folder} exists. Replace it with --overwrite=true, or name another with --output=DIR.")
    tokenizer = AutoTokenizer.from_pretrained(model_folder / "text", trust_remote_code=False)
    dense = model.items.text if isinstance(model.items.text, nn.Linear) else None
    with publish_folder(folder) as made:
        export_sentence_transformers(
            model.text, tokenizer, made, pooling=model.text.pooling, max_tokens=model.text.max_tokens, dense=dense,
            normalize=model.config.normalize,
        )  # fmt: skip
    return folder
