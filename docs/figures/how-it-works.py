"""Draws how-it-works.svg: a batch of sentences, encoded twice, and the matrix of cosines that training shapes.

python docs/figures/how-it-works.py    # colours that can be read on white and on black
"""

from pathlib import Path

COLOURS = ["#4c8bf5", "#e8710a", "#1e9e5a"]
GREY = "#808995"
SENTENCES = ["A man plays the guitar.", "It rains in Kyoto.", "The bread is warm."]
COSINES = [[0.97, 0.05, 0.11], [0.04, 0.96, 0.08], [0.10, 0.07, 0.98]]
HARD = [0.41, 0.22, 0.36]


def text(x: float, y: float, words: str, *, size: int = 15, fill: str = GREY, anchor: str = "start") -> str:
    return f'<text x="{x}" y="{y}" font-size="{size}" fill="{fill}" text-anchor="{anchor}">{words}</text>'


def box(x: float, y: float, w: float, h: float, fill: str, *, opacity: float = 1.0, dashed: bool = False) -> str:
    line = (
        f'fill="none" stroke="{fill}" stroke-dasharray="4 4"' if dashed else f'fill="{fill}" fill-opacity="{opacity}"'
    )
    return f'<rect x="{x}" y="{y}" width="{w}" height="{h}" rx="6" {line}/>'


def arrow(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<path d="M{x1} {y1} L{x2} {y2}" stroke="{GREY}" stroke-width="1.8" marker-end="url(#tip)" fill="none"/>'


def encoder(x: float, y: float, mask: str) -> list[str]:
    return [
        box(x, y, 140, 62, GREY, opacity=0.18),
        text(x + 70, y + 27, "encoder", anchor="middle", size=16),
        text(x + 70, y + 47, mask, anchor="middle", size=13),
    ]


def picture() -> str:
    parts = [text(20, 26, "a batch of sentences")]
    for row, (sentence, colour) in enumerate(zip(SENTENCES, COLOURS, strict=True)):
        parts += [
            box(20, 102 + 46 * row, 190, 34, colour),
            text(115, 124 + 46 * row, sentence, fill="#fff", anchor="middle", size=14),
        ]
    parts += [arrow(216, 150, 254, 102), arrow(216, 180, 254, 232)]
    parts += [*encoder(262, 66, "dropout mask 1"), *encoder(262, 204, "dropout mask 2")]
    parts += [text(332, 160, "the same weights", anchor="middle", size=13)]
    parts += [text(450, 52, "anchors", anchor="middle", size=13), text(450, 294, "positives", anchor="middle", size=13)]
    for row, colour in enumerate(COLOURS):
        for top in (62, 196):
            parts += [
                box(418 + 4 * k, top + 26 * row, 3, 18, colour, opacity=0.35 + 0.09 * ((3 * k + row) % 7))
                for k in range(16)
            ]
    parts += [arrow(404, 97, 414, 97), arrow(404, 235, 414, 235), arrow(490, 110, 536, 150), arrow(490, 224, 536, 184)]

    left, top, side = 548, 92, 54
    parts += [text(left, 26, "cosines, over the temperature")]
    parts += [
        text(left + 81, 78, "positives", anchor="middle", size=13),
        text(left + 192, 78, "hard neg.", anchor="middle", size=13),
    ]
    for row, cosines in enumerate(COSINES):
        for column, cosine in enumerate(cosines):
            x, y = left + side * column, top + side * row
            right = row == column
            parts += [
                box(x + 2, y + 2, side - 4, side - 4, COLOURS[row] if right else GREY, opacity=1 if right else 0.16)
            ]
            fill = "#fff" if right else GREY
            parts += [text(x + side / 2, y + 33, f"{cosine:.2f}", anchor="middle", size=15, fill=fill)]
        x, y = left + side * 3 + 4, top + side * row
        parts += [box(x + 2, y + 2, side - 4, side - 4, GREY, dashed=True)]
        parts += [text(x + side / 2, y + 33, f"{HARD[row]:.2f}", anchor="middle", size=15)]
    parts += [
        text(left, 284, "on the diagonal: pulled together,"),
        text(left, 306, "all others of a row: pushed apart"),
    ]
    body = "\n".join(parts)
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 790 324" font-family="system-ui, sans-serif">\n'
        f'<defs><marker id="tip" viewBox="0 0 10 10" refX="8" refY="5" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0 L10 5 L0 10 z" fill="{GREY}"/></marker></defs>\n{body}\n</svg>\n'
    )


if __name__ == "__main__":
    Path(__file__).with_suffix(".svg").write_text(picture(), encoding="utf-8")
