"""Pictures of a report, as PNG."""

import io
from itertools import cycle

from retune.report import Curve

# Wong's colours, which people with any colour vision tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")


def draw_losses(curves: list[Curve]) -> bytes:
    """The losses of a job over its training steps, each point that it logged."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axes = figure.subplots()
    for curve, colour in zip(curves, cycle(COLOURS), strict=False):
        axes.plot(curve.steps, curve.values, marker="o", markersize=3, linewidth=1.4, color=colour, label=curve.metric)
    axes.set_xlabel("training step")
    axes.set_ylabel("loss")
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", linewidth=0.5, alpha=0.4)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    picture = io.BytesIO()
    FigureCanvasAgg(figure).print_png(picture)
    return picture.getvalue()
