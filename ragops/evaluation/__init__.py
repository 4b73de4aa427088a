"""Questions with judgements asked of a release: measures, comparisons and the gate before publishing."""
