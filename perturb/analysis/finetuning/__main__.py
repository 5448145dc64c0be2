"""`python -m perturb.analysis.finetuning`."""

import sys

from perturb.analysis.finetuning.finetuning import main

sys.exit(main())
