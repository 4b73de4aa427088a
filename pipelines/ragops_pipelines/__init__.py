"""From sources to a release: fetch, parse, chunk, embed, load, and the run that composes them."""
