"""Training a sentencepiece model that keeps every text: no normalisation, no added or removed spaces, byte fallback."""

import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Literal

from data_pipeline.errors import DataError
from data_pipeline.prepare.measure import SAMPLE_LINE_BYTES

ModelType = Literal["bpe", "unigram"]
NUM_FIXED_TOKENS = 257  # every byte, and the unknown token, which byte fallback never emits
MIN_VOCAB_SIZE = 260
MAX_VOCAB_SIZE = 1 << 22  # four times the largest in use; sentencepiece's own trainer counts in 32 bits
COVERAGE = 0.9995  # of the text, by characters that may become tokens
_NUM_THREADS = 16  # fixed: sums over threads decide the last digit of unigram scores, so the machine must not


def train_sentencepiece(lines: Sequence[bytes], *, vocab_size: int, model_type: ModelType) -> bytes:
    """The model's bytes. Small samples may give fewer than `vocab_size` tokens; DataError when they give none."""
    import sentencepiece

    if vocab_size < MIN_VOCAB_SIZE:
        raise DataError(
            f"--vocab-size is {vocab_size}; sentencepiece with byte fallback needs at least {MIN_VOCAB_SIZE}"
        )
    if vocab_size > MAX_VOCAB_SIZE:
        raise DataError(f"--vocab-size is {vocab_size}; at most {MAX_VOCAB_SIZE} tokens are trained")
    sentences = _sentences(lines, vocab_size=vocab_size)
    first = next(sentences, None)
    if first is None:
        raise DataError(
            f"sentencepiece has nothing to learn from {len(lines)} lines of this text, which are line ends and bytes "
            "that are no UTF-8; use --tokenizer bytes"
        )
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=chain([first], sentences),
            character_coverage=1.0,
            model_writer=model,
            vocab_size=vocab_size,
            model_type=model_type,
            hard_vocab_limit=False,
            byte_fallback=True,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            max_sentence_length=2 * SAMPLE_LINE_BYTES,
            unk_id=0,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            num_threads=_NUM_THREADS,
            minloglevel=2,
        )
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise DataError(f"sentencepiece could not be trained on {len(lines)} lines of this text: {reason}") from None
    return model.getvalue()


def _sentences(lines: Sequence[bytes], *, vocab_size: int) -> Iterator[str]:
    """What sentencepiece can learn from: stretches of frequent characters within a line."""
    frequent = _frequent_characters(lines, at_most=(vocab_size - NUM_FIXED_TOKENS + 1) // 2)
    rare = re.compile(f"[^{re.escape(frequent)}]+")
    for line in lines:
        yield from filter(None, rare.split(line.decode("utf-8", "ignore")))


def _frequent_characters(lines: Sequence[bytes], *, at_most: int) -> str:
    """The characters that make up COVERAGE of the text, or as many as the vocabulary can spare.

    The rest travel as bytes; so do NULs, line ends and sentencepiece's own space mark, which it cannot learn, and
    spaces where there are next to none: the model then has no piece for them, and the tokenizer writes their byte.
    """
    counts = Counter[str]()
    for line in lines:
        counts.update(line.decode("utf-8", "ignore"))
    for unusable in "\0\r\n\u2581":
        del counts[unusable]
    wanted, chosen = COVERAGE * counts.total(), []
    for character, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:at_most]:
        if wanted <= 0:
            break
        chosen.append(character)
        wanted -= count
    return "".join(chosen) or "a"
