"""Tables, figures and pages from finished cells. Nothing here fits, adapts or needs torch."""
