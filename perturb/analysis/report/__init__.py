"""One page about one run or a whole coupling study: `python -m perturb.report runs/… -o report.html`."""
