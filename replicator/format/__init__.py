"""Bytes: ids, records, codecs, snapshots in parts, patches. Pure: no clock, socket, file or thread."""
