"""Beam search, free or constrained to a catalogue's titles, with any causal language model of transformers."""

from pplr.models.decoding.beam import Beams, beam_search
from pplr.models.decoding.trie import TitleTrie

__all__ = ["Beams", "TitleTrie", "beam_search"]
