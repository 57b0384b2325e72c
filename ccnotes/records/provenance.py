"""The former name of :mod:`ccnotes.records.origin`."""

from ccnotes.records.origin import about, commit, provenance

__all__ = ["about", "commit", "provenance"]
