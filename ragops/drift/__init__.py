"""Whether what is asked, and what answers, is still what it was."""
