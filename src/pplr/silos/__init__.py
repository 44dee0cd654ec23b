"""Silos in processes and on machines of their own, connected by Flower's SuperLink and SuperNodes (docs/silos.md)."""
