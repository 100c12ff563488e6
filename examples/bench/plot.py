#!/usr/bin/python3
"""Draws what `bench --scale` has measured. Usage: plot.py TABLE.csv PICTURE.svg"""

import csv
import sys

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402 - the backend comes first

# A grey that can be read on white and on black: the picture has no background of its own.
GREY = "#808080"
PROGRAMS = {"ours": ("ganeti-kvmd of this project", "#1a9850"), "original": ("the original", "#d6604d")}

plt.rcParams.update({
    "text.color": GREY, "axes.labelcolor": GREY, "axes.edgecolor": GREY, "axes.titlecolor": GREY,
    "xtick.color": GREY, "ytick.color": GREY, "legend.labelcolor": GREY, "grid.color": GREY,
    "grid.alpha": 0.3, "font.size": 11, "svg.fonttype": "none", "svg.hashsalt": "kvmd",
})


def main(table, picture):
    with open(table, encoding="ascii") as lines:
        rows = list(csv.DictReader(lines))
    figure, ((memory, attach), (delay, unmarked)) = plt.subplots(2, 2, figsize=(12, 9))
    for program, (label, color) in PROGRAMS.items():
        own = [row for row in rows if row["program"] == program]
        if not own:
            continue
        vms = [int(row["vms"]) for row in own]

        def draw(axes, column, label, style="o-", scale=1.0):
            values = [float(row[column]) * scale for row in own]
            axes.plot(vms, values, style, color=color, label=label, markersize=5)

        draw(memory, "rss_kib", f"{label}, RSS", scale=1 / 1024)
        draw(memory, "private_kib", f"{label}, private", "o:", scale=1 / 1024)
        draw(attach, "attach_ms", label)
        draw(delay, "event_to_file_p99_ms", f"{label}, 99 of 100")
        draw(delay, "event_to_file_median_ms", f"{label}, median", "o:")
        draw(unmarked, "gone_unmarked", label)
    panels = [(memory, "Memory", "MB"), (attach, "Start, until every VM has answered", "ms"),
              (delay, "All power off at once: from event to file", "ms"),
              (unmarked, "All power off at once: gone with no file yet", "virtual machines")]
    for axes, title, unit in panels:
        axes.set(xscale="log", yscale="log", title=title, xlabel="virtual machines", ylabel=unit)
        axes.grid(True, which="major")
        axes.legend(frameon=False, fontsize=9, loc="upper left")
    # There are none to be shown on a logarithmic axis.
    unmarked.set_yscale("symlog")
    unmarked.set_ylim(bottom=-0.3)
    for axes, _, _ in panels:
        for spine in ("top", "right"):
            axes.spines[spine].set_visible(False)
    figure.tight_layout()
    figure.savefig(picture, transparent=True, metadata={"Date": None})


main(*sys.argv[1:])
