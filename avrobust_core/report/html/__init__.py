"""The report of a run: one page that opens offline, gathered as data, drawn as geometry, written by templates."""
