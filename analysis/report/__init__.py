"""One page about one run or a whole coupling study: `python -m analysis.report runs/… -o report.html`."""
