"""Normal: texts as they are compared for being equal."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

OTHERS = r"[^\p{L}\p{M}\p{N}]+"
# What `OTHERS` is in ASCII, every byte of it as a blank.
BLANK = bytes(byte if byte >= 128 or chr(byte).isalnum() else ord(" ") for byte in range(256))


def normalise(texts: pa.Array) -> pa.Array:
    """Texts as they are compared: NFKC, lower case, every run of other than letters, marks and digits one blank.

    A text of nothing but such characters keeps them, so that two different emoji are not the same prompt.
    """
    folded = pc.utf8_lower(pc.utf8_normalize(texts.cast(pa.string()), form="NFKC"))
    wide = pc.fill_null(pc.invert(pc.string_is_ascii(folded)), False)
    # The expression takes ten times as long as all else here, and few texts need it.
    replaced = pc.utf8_trim_whitespace(pc.replace_substring_regex(folded.filter(wide), OTHERS, " "))
    words = pc.replace_with_mask(_ascii_words(folded), wide, replaced)
    return pc.if_else(pc.equal(words, ""), pc.utf8_trim_whitespace(folded), words)


def _ascii_words(texts: pa.Array) -> pa.Array:
    """The same of texts in ASCII, by their bytes: a blank is left out at the start and behind another one."""
    valid, offsets, data = texts.buffers()
    starts = np.frombuffer(offsets, np.int32, len(texts) + 1, 4 * texts.offset) if offsets else np.zeros(1, np.int32)
    blanked = (data.to_pybytes() if data else b"").translate(BLANK)
    bytes_ = np.frombuffer(blanked, np.uint8)[: starts[-1]]
    kept = bytes_ != ord(" ")
    behind = np.zeros(len(kept), bool)  # whether the byte before, in the same text, is part of a word
    behind[1:] = kept[:-1]
    behind[starts[:-1][starts[:-1] < len(behind)]] = False
    kept |= behind
    counts = np.zeros(len(kept) + 1, np.int32)
    np.cumsum(kept, out=counts[1:])
    buffers = [valid, pa.py_buffer(counts[starts]), pa.py_buffer(bytes_[kept])]
    return pc.ascii_rtrim(pa.Array.from_buffers(pa.string(), len(texts), buffers, offset=0), " ")
