"""Write the page of a generated answer: from which parts of the prompt each of its tokens came.

The page is one file without a library: scores are stored in bytes, by row relative to its largest,
so that two thousand tokens of a prompt and two hundred of an answer stay below eight megabytes.
Text reaches the page as JSON and is set as text only, so that none of it is read as markup.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import html
import json
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from jaxflow.errors import InputError
from jaxflow.html.style import shades, visible

Kind = Literal["ratio", "share", "value"]

BUDGET = 7_500_000  # bytes of a page's scores
#: The shades of what is below 0, from white to orange.
_BELOW = [
    f"#{255 - at * 42 // 255:02x}{255 - at * 161 // 255:02x}{255 - at:02x}" for at in range(256)
]

_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1b2733; background: #f5f7fa; margin: 0; }
main { max-width: 84rem; margin: 1.5rem auto; padding: 0 1rem; }
h1 { font-size: 1.25rem; font-weight: 600; }
h2 { font-size: 1rem; margin: 0 0 .5rem; }
section { background: #fff; border-radius: .75rem; padding: 1rem 1.25rem; margin: 1rem 0;
  box-shadow: 0 1px 4px #1b273322; }
.bar { position: sticky; top: 0; z-index: 5; }
.text { white-space: pre-wrap; overflow-wrap: anywhere; line-height: 1.9; }
.text span { border-radius: .25rem; padding: .1rem 0; }
#answer span { cursor: pointer; border-bottom: 2px solid #1b273322; }
#answer span.chosen { border-bottom-color: #d55e00; outline: 2px solid #d55e00; }
.note { font-size: .85rem; color: #44566a; margin: .4rem 0; }
label { margin-right: 1rem; font-size: .9rem; }
table { border-collapse: collapse; font-size: .85rem; width: 100%; }
td { padding: .15rem .5rem; vertical-align: top; overflow-wrap: anywhere; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.share { width: 30%; } td.share div { background: #0072b2; height: .8rem; min-width: 1px; }
td.share div.below { background: #d55e00; }
canvas { width: 100%; image-rendering: pixelated; border: 1px solid #1b273322; }
"""

_SCRIPT = """
const data = JSON.parse(document.getElementById("data").textContent);
const $ = name => document.getElementById(name);
const read = list => list.map(one => Uint8Array.from(atob(one.steps), c => c.charCodeAt(0)));
const rows = read(data.scores), units = read(data.unit_scores), wide = data.units.length + 1;
const prompt = data.prompt.length, count = data.spans.length, n = data.width;
const rowOf = data.answer.map((_, at) => {
  const row = data.spans.findIndex(span => span[0] <= at && at < span[1]);
  return row < 0 ? null : row;
});
const label = row => data.answer.slice(...data.spans[row]).join("").trim();
let pinned = null, shown = null;
const option = (select, text, value) => {
  const one = document.createElement("option"); one.textContent = text; one.value = value;
  select.append(one);
};
data.methods.forEach((name, at) => option($("method"), name, at));
data.layers.forEach((name, at) => option($("layer"), name, at));
$("layer").value = data.layers.length - 1;
const method = () => Number($("method").value), kind = () => data.kinds[method()];
const table = () => {  // a method without layers has one table
  const [first, tables] = data.tables[method()];
  return first + Math.min(Number($("layer").value), tables - 1);
};
// Signed values are stored as 128 plus or minus 127 roots of their shares.
const root = (list, at) =>
  kind() === "value" ? (list[at] - 128) / 127 : list[at] / 255;
const score = (at, row, token) => {
  const share = root(rows[at], row * n + token);
  return share * Math.abs(share) * data.scores[at].largest[row];
};
const unit = (at, row, place) => {
  const share = root(units[at], row * wide + place);
  return share * Math.abs(share) * data.unit_scores[at].largest[row];
};
const draw = (parent, words) => words.map(word => {
  const one = document.createElement("span");
  one.textContent = word; parent.append(one);
  return one;
});
const before = draw($("prompt"), data.prompt), after = draw($("answer"), data.answer);
const colour = share => share < 0
  ? data.below[Math.round(-255 * share)] : data.shades[Math.round(255 * share)];
const paint = (span, share) => {
  span.style.background = share === null ? "" : colour(share);
  span.style.color = share !== null && share > .745 ? "#fff" : "";
};
const roots = values => {
  const top = values.reduce((most, value) => Math.max(most, Math.abs(value)), 0) || 1;
  return Array.from(values, value => Math.sign(value) * Math.sqrt(Math.abs(value) / top));
};
const shares = row => {  // of one number that is explained, or of all of them
  const at = table();
  if (row !== null) return Array.from({ length: n }, (_, k) => root(rows[at], row * n + k));
  const sums = new Float64Array(n);
  for (let r = 0; r < count; r++) for (let k = 0; k < prompt; k++) sums[k] += score(at, r, k);
  return roots(sums);
};
const show = row => {
  shown = row;
  const found = shares(row);
  before.forEach((span, at) => paint(span, found[at]));
  after.forEach((span, at) => {
    paint(span, row !== null && at < data.spans[row][1] - 1 ? found[prompt + at] : null);
    span.classList.toggle("chosen", row !== null && rowOf[at] === row);
  });
  $("of").textContent = row === null ? "the whole answer" : `"${label(row)}"`;
  totals(row); mark(row);
};
const totals = row => {
  const at = table(), list = row === null ? [...Array(count).keys()] : [row];
  const sums = new Float64Array(wide), value = kind() === "value", parts = value ? 1 : list.length;
  for (const r of list) for (let u = 0; u < wide; u++) sums[u] += unit(at, r, u) / parts;
  const whole = sums.reduce((a, b) => a + b, 0) || 1;
  const most = sums.reduce((top, one) => Math.max(top, Math.abs(one)), 0) || 1;
  const order = [...sums.keys()].filter(u => sums[u]).sort((a, b) => sums[b] - sums[a]);
  $("totals").replaceChildren(...order.slice(0, 30).map(u => {
    const tr = document.createElement("tr");
    const cells = ["", "number", "share"].map(name => {
      const td = document.createElement("td"); td.className = name; tr.append(td); return td;
    });
    cells[0].textContent = u < data.units.length ? data.units[u] : "(the answer before it)";
    cells[1].textContent = value ? sums[u].toFixed(3)
      : kind() === "ratio" ? sums[u].toFixed(2) + " x"
      : (100 * sums[u] / whole).toFixed(1) + " %";
    const bar = document.createElement("div");
    bar.style.width = 100 * Math.abs(sums[u]) / most + "%";
    if (sums[u] < 0) bar.className = "below";
    cells[2].append(bar); return tr;
  }));
};
const matrix = $("matrix"), width = data.units.length;
matrix.width = width; matrix.height = count;
matrix.style.height = Math.max(120, Math.min(480, 14 * count)) + "px";
const grid = () => {
  const at = table(), context = matrix.getContext("2d");
  for (let r = 0; r < count; r++) {
    roots(Array.from({ length: width }, (_, u) => unit(at, r, u))).forEach((share, u) => {
      context.fillStyle = colour(share);
      context.fillRect(u, r, 1, 1);
    });
  }
};
const mark = row => {
  $("place").textContent = row === null || count < 2 ? "" : `row ${row + 1} of ${count}`;
};
matrix.addEventListener("mousemove", event => {
  const box = matrix.getBoundingClientRect();
  const r = Math.min(count - 1, Math.floor((event.clientY - box.top) / box.height * count));
  const u = Math.min(width - 1, Math.floor((event.clientX - box.left) / box.width * width));
  if (r < 0 || u < 0) return;
  matrix.title = `${label(r)} \\u2190 ${data.units[u]}`;
  show(r);
});
matrix.addEventListener("mouseleave", () => show(pinned));
after.forEach((span, at) => {
  const row = rowOf[at];
  if (row === null) return;
  span.addEventListener("mouseenter", () => show(row));
  span.addEventListener("mouseleave", () => show(pinned));
  span.addEventListener("click", () => { pinned = pinned === row ? null : row; show(pinned); });
});
document.addEventListener("keydown", event => {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step || event.target.tagName === "SELECT") return;
  pinned = pinned === null ? (step > 0 ? 0 : count - 1) : (pinned + step + count) % count;
  show(pinned);
});
for (const name of ["method", "layer"])
  $(name).addEventListener("change", () => { grid(); show(pinned); });
if (data.layers.length < 2) $("layer").parentElement.hidden = true;
grid(); show(null);
"""


@dataclasses.dataclass(frozen=True, eq=False)
class AnswerContent:
    """What the page of an answer shows.

    Attributes
    ----------
    prompt, answer
        The texts of the P tokens of the prompt and the T of the answer, with their spaces.
    scores
        Method -> ``[K, R, P + T]``: what each token counts for each of the R numbers that are
        explained, at K layers; ``[1, R, P + T]`` of a method without layers.
    unit_scores
        Method -> ``[K, R, U + 1]``, of the units and of the answer before a token.
    kinds
        Whether each method's scores are a ``ratio`` to what a token's position explains, a
        ``share`` of a row, or a signed ``value``.
    layers
        The names of the K layers, the top one last.
    units
        The texts of the U units of the prompt.
    notes
        Plain sentences below the heading.
    spans
        The R explained parts of the answer, each from a token to before another; None is each of
        its tokens.
    """

    prompt: Sequence[str]
    answer: Sequence[str]
    scores: Mapping[str, NDArray[np.floating]]
    unit_scores: Mapping[str, NDArray[np.floating]]
    kinds: Sequence[Kind]
    layers: Sequence[str]
    units: Sequence[str]
    notes: Sequence[str] = ()
    spans: Sequence[tuple[int, int]] | None = None


def write_answer_page(content: AnswerContent) -> str:
    """Return the HTML document of an answer.

    Raises `InputError` if its scores do not fit the page.
    """
    count, n = len(content.answer), len(content.prompt) + len(content.answer)
    wide = n + len(content.units) + 1
    spans = [(at, at + 1) for at in range(count)] if content.spans is None else content.spans
    tables = [len(values) for values in content.scores.values()]
    size = sum(tables) * len(spans) * wide * 4 // 3
    if size > BUDGET:
        raise InputError(
            f"the page of {count:,} x {n:,} tokens for {len(content.scores)} methods at "
            f"{len(content.layers)} layers would have {size / 1e6:.0f} MB: ask for fewer methods, "
            "layers or tokens"
        )
    data = {
        "prompt": [visible_text(token) for token in content.prompt],
        "answer": [visible_text(token) for token in content.answer],
        "methods": list(content.scores),
        "layers": list(content.layers),
        "units": [visible(unit) for unit in content.units],
        "kinds": list(content.kinds),
        "spans": [list(span) for span in spans],
        "tables": [[sum(tables[:at]), count] for at, count in enumerate(tables)],
        "width": n,
        "shades": shades(),
        "below": _BELOW,
        "scores": _tables(content.scores, content.kinds),
        "unit_scores": _tables(content.unit_scores, content.kinds),
    }
    # In JSON a "<" may be written as an escape, so that nothing in it ends the element.
    text = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")
    digest = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        "base-uri 'none'; form-action 'none'"
    )
    notes = "".join(f'<p class="note">{html.escape(note)}</p>' for note in content.notes)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>jaxflow: an answer and its prompt</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1>Which part of the prompt each word of the answer came from</h1>
{notes}
<section class="bar"><h2>Answer</h2>
<label>Method <select id="method"></select></label>
<label>Layer <select id="layer"></select></label>
<div id="answer" class="text"></div>
<p class="note">Point at a token to shade what it came from; click to keep it; arrows move.
Shown: <bdi id="of"></bdi> <span id="place"></span></p></section>
<section><h2>Prompt</h2><div id="prompt" class="text"></div></section>
<section><h2>Totals</h2><table><tbody id="totals"></tbody></table></section>
<section><h2>Answer (down) and units of the prompt (across)</h2><canvas id="matrix"></canvas>
</section>
</main>
<script type="application/json" id="data">{text}</script>
<script>{_SCRIPT}</script>
</body>
</html>
"""


def visible_text(token: str) -> str:
    """Return `visible` text in which line breaks and tabs stay what they are."""
    return "".join(char if char in "\n\t" else visible(char) for char in token)


def _tables(
    scores: Mapping[str, NDArray[np.floating]], kinds: Sequence[Kind]
) -> list[dict[str, object]]:
    return [
        _steps(table, kind == "value")
        for values, kind in zip(scores.values(), kinds, strict=True)
        for table in values
    ]


def _steps(table: NDArray[np.floating], signed: bool) -> dict[str, object]:
    """Return ``[R, n]`` as the root of each score's share of its row's largest, in bytes."""
    values = np.nan_to_num(np.asarray(table, np.float64))
    values = values if signed else np.maximum(values, 0)
    largest = np.abs(values).max(-1)
    shares = values / np.where(largest > 0, largest, 1)[:, None]
    roots = np.sign(shares) * np.sqrt(np.abs(shares))
    steps = np.rint(128 + 127 * roots if signed else 255 * roots).astype(np.uint8)
    return {"steps": base64.b64encode(steps.tobytes()).decode(), "largest": largest.tolist()}
