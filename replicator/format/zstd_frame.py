"""A zstd frame of a size that was told before it: unpacked, and believed in neither the frame nor the size."""

from __future__ import annotations

import sys

from replicator.errors import CorruptRecord

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = ["unpacked"]

#: Refuses frames with a larger window, as everywhere.
_READ_OPTIONS: dict[int, int] = {zstd.DecompressionParameter.window_log_max: 23}


def unpacked(frame: memoryview, size: int, *, what: str, id_: str) -> bytes:
    """The `size` bytes that are in it, and no more than these are held. `what` it is of, in words.

    Raises `CorruptRecord`: it is no frame, or not a whole one, or has another size.
    """
    try:
        unpacker = zstd.ZstdDecompressor(options=_READ_OPTIONS)
        data = unpacker.decompress(frame, max_length=size + 1)
    except zstd.ZstdError as error:
        raise CorruptRecord(id=id_, problem=f"its {what} is not zstd ({error})") from None
    if len(data) != size or not unpacker.eof or unpacker.unused_data:
        raise CorruptRecord(id=id_, problem=f"its {what} is not whole: it was damaged")
    return data
