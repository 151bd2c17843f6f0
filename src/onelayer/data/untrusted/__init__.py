"""Readers of bytes that strangers wrote: every size, offset and name is checked before it is used."""
