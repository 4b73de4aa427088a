from ragops.cli import entry

entry()
