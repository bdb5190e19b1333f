#!/usr/bin/env python3
"""Draws a trace of `cachette run --trace FILE` as an SVG: when each layer retrieved, and what it brought in.

Usage: draw_retrieval.py TRACE OUT.svg [--layer N] [--last TOKENS]

Above: one column per generated token, one row per layer, a mark where the layer's trigger fired. Below: for one layer
(the one that brought in most, unless named), the positions in the document of the units that were brought in.
"""

import argparse
import json
import pathlib

LEFT, TOP, WIDTH, ROW, LOWER = 64, 40, 860, 7, 240
INK, PALE, MARK = "#20242c", "#e7e9ee", ("#c8553d", "#2d6a8e", "#588b4c", "#8e5ea2", "#b8862b", "#3f8f8a")


def read(path):
    with open(path) as file:
        header = json.loads(file.readline())
        if header.get("format") != "cachette-trace":
            raise SystemExit(f"draw_retrieval: {path} is no trace; write one with cachette run --trace FILE")
        return header, [json.loads(line) for line in file]


def text(x, y, content, size=11, anchor="start", colour=INK):
    return (f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{colour}" '
            f'font-family="sans-serif">{content}</text>')


def rect(x, y, width, height, colour):
    return f'<rect x="{x:.2f}" y="{y:.2f}" width="{width:.2f}" height="{height:.2f}" fill="{colour}"/>'


def draw(header, lines, layer):
    steps = sorted({line["step"] for line in lines})
    column = {step: i for i, step in enumerate(steps)}
    layers = sorted({line["layer"] for line in lines})
    if layer is None:
        brought = {l: 0 for l in layers}
        for line in lines:
            if line["step"] != steps[0]:
                brought[line["layer"]] += sum(map(len, line["recalled"]))
        layer = max(layers, key=brought.get)
    wide = WIDTH / max(1, len(steps))
    upper = ROW * len(layers)
    lower_top = TOP + upper + 64
    height = lower_top + LOWER + 44
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + 24}" height="{height}">',
           rect(0, 0, LEFT + WIDTH + 24, height, "#ffffff"),
           text(LEFT, 16, f'{header["recipe"]}: where each layer retrieved, {len(steps)} generated tokens after '
                          f'{header["prompt_tokens"]} of the prompt', 13)]
    fired = 0
    out += [rect(LEFT, TOP + i * ROW, WIDTH, ROW - 0.8, PALE) for i in range(len(layers))]
    for line in lines:
        x, y = LEFT + column[line["step"]] * wide, TOP + layers.index(line["layer"]) * ROW
        fired += line["retrieval"]
        if line["retrieval"]:
            out.append(rect(x, y, max(wide - 0.3, 0.4), ROW - 0.8, MARK[0]))
    for l in layers[::5]:
        out.append(text(LEFT - 6, TOP + layers.index(l) * ROW + ROW - 1, str(l), 9, "end"))
    out.append(text(LEFT - 30, TOP - 8, "layer", 10))
    out.append(text(LEFT + WIDTH, TOP + upper + 14, f"{fired / max(1, len(lines)):.2f} retrievals per token and layer",
                    10, "end"))
    end = header["prompt_tokens"] + len(steps)
    out.append(text(LEFT, lower_top - 12, f"layer {layer}: positions of the units brought in, one colour per KV head", 12))
    out.append(rect(LEFT, lower_top, WIDTH, LOWER, "#f6f7f9"))
    for line in lines:
        if line["layer"] != layer:
            continue
        for head, positions in enumerate(line["recalled"]):
            for position in positions:
                y = lower_top + LOWER * (1 - position / max(1, end))
                out.append(rect(LEFT + column[line["step"]] * wide, y - 1, max(wide, 1.5), 2, MARK[1 + head % 5]))
    for share in (0, 0.25, 0.5, 0.75, 1):
        out.append(text(LEFT - 6, lower_top + LOWER * (1 - share) + 4, str(round(share * end)), 9, "end"))
    out.append(text(LEFT, height - 14, "generated token", 10))
    out.append(text(LEFT + WIDTH, height - 14, str(len(steps)), 10, "end"))
    out.append("</svg>")
    return "\n".join(out) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace")
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--layer", type=int)
    parser.add_argument("--last", type=int, help="only so many tokens, the last ones")
    arguments = parser.parse_args()
    header, lines = read(arguments.trace)
    if not lines:
        raise SystemExit(f"draw_retrieval: {arguments.trace} holds no step; the run retrieved nothing")
    if arguments.last:
        first = sorted({line["step"] for line in lines})[-arguments.last:][0]
        lines = [line for line in lines if line["step"] >= first]
    arguments.out.write_text(draw(header, lines, arguments.layer))


if __name__ == "__main__":
    main()
