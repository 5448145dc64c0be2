"""The one look of every figure: a matplotlib rc, and colours that hold for colour-blind readers and in grey.

Colours are from Okabe and Ito (2008); whatever a colour tells, a line style or a marker tells too.
"""

from typing import Any

INK = "#222222"
QUIET = "#767676"
RULE = "#c8c8c8"
MOTION = "#0072B2"
VISUAL = "#D55E00"
DRIFT = "#009E73"
COLLAPSE = "#882255"

TRAINING_COLOUR = {"full": "#0072B2", "partial": "#E69F00"}

AXIS_COLOUR = {"motion": MOTION, "visual": VISUAL, "drift": DRIFT, "text": "#CC79A7"}

DIVERGING = ("#005a8c", "#7fbbe0", "#ffffff", "#f0a070", "#a84400")
"""From less to more through white: blue and orange differ for every kind of colour vision."""

DPI = 170
RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "mathtext.fontset": "dejavusans",
    "axes.titlesize": 9.0,
    "axes.titleweight": "normal",
    "axes.titlelocation": "left",
    "axes.titlepad": 5.0,
    "axes.labelsize": 9.0,
    "axes.labelcolor": INK,
    "axes.edgecolor": QUIET,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.size": 3.0,
    "ytick.major.size": 3.0,
    "grid.color": RULE,
    "grid.linewidth": 0.5,
    "legend.edgecolor": "none",
    "legend.framealpha": 0.9,
    "legend.fontsize": 8.0,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.5,
    "text.color": INK,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "figure.dpi": DPI,
    "savefig.dpi": "figure",
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
}
