"""Folders of transformers that ``benchmarks.export`` exports: MiniLM with its own weights."""

from benchmarks.exporters.case import Case

CASES = (Case("minilm", "{folder}/minilm"),)
