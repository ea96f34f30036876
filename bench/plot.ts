// Plots of samples as SVG: a panel a figure, a row a contender; each sample a dot, a line from the least to the largest, a
// bar at the median. Text and shapes alone, so that the file shows the same in a browser and in a page of documentation.

import { spreadOf } from "./statistics.js";

export interface PlotRow {
  name: string;
  values: readonly number[];
}

export interface Panel {
  title: string;
  /** How a value is written at the axis and at the median. */
  format: (value: number) => string;
  rows: readonly PlotRow[];
  /** A value to compare with, drawn across the rows. */
  mark?: { value: number; label: string };
}

const WIDTH = 860;
const LABEL_WIDTH = 290;
const VALUE_WIDTH = 90;
const ROW_HEIGHT = 26;
const PANEL_HEAD = 34;
const PANEL_FOOT = 34;
const TICKS_WANTED = 6;
const COLOURS = ["#0b6e8e", "#b0561d", "#4f7a28", "#7b4a9e", "#8a6d1b", "#a33b4c", "#4a5a78"];

const escapeText = (text: string): string => text.replace(/[&<>"]/g, (char) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[char]!);

function textAt(x: number, y: number, text: string, attributes = ""): string {
  return `<text x="${x.toFixed(1)}" y="${y.toFixed(1)}"${attributes && ` ${attributes}`}>${escapeText(text)}</text>`;
}

/** Round numbers from zero to at least `largest`. */
export function ticksUpTo(largest: number): number[] {
  if (!(largest > 0)) return [0, 1];
  const rough = largest / TICKS_WANTED;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= rough * 0.999)!;
  return Array.from({ length: Math.ceil((largest / step) * 0.999) + 1 }, (_, i) => Number((i * step).toPrecision(12)));
}

function panelAt(top: number, panel: Panel): string[] {
  const rows = panel.rows.map((row) => ({ ...row, values: row.values.filter(Number.isFinite) }));
  const ticks = ticksUpTo(Math.max(0, panel.mark?.value ?? 0, ...rows.flatMap(({ values }) => values)));
  const [left, right] = [LABEL_WIDTH, WIDTH - VALUE_WIDTH];
  const xOf = (value: number): number => left + (value / ticks.at(-1)!) * (right - left);
  const [first, last] = [top + PANEL_HEAD, top + PANEL_HEAD + rows.length * ROW_HEIGHT];
  const lines = [textAt(16, top + 20, panel.title, 'class="panel"')];
  for (const tick of ticks) {
    lines.push(`<line x1="${xOf(tick).toFixed(1)}" x2="${xOf(tick).toFixed(1)}" y1="${first}" y2="${last}" class="grid"/>`);
    lines.push(textAt(xOf(tick), last + 15, panel.format(tick), 'class="tick" text-anchor="middle"'));
  }
  if (panel.mark) {
    lines.push(`<line x1="${xOf(panel.mark.value).toFixed(1)}" x2="${xOf(panel.mark.value).toFixed(1)}" y1="${first - 4}" y2="${last}" class="mark"/>`);
    lines.push(textAt(xOf(panel.mark.value), first - 6, panel.mark.label, 'class="tick" text-anchor="middle"'));
  }
  for (const [at, row] of rows.entries()) {
    const [y, colour] = [first + (at + 0.5) * ROW_HEIGHT, COLOURS[at % COLOURS.length]!];
    lines.push(textAt(LABEL_WIDTH - 10, y + 4, row.name, 'text-anchor="end"'));
    if (!row.values.length) continue;
    const { median, min, max } = spreadOf(row.values);
    lines.push(`<line x1="${xOf(min).toFixed(1)}" x2="${xOf(max).toFixed(1)}" y1="${y}" y2="${y}" stroke="${colour}"/>`);
    for (const value of row.values) lines.push(`<circle cx="${xOf(value).toFixed(1)}" cy="${y}" r="3.2" fill="${colour}" fill-opacity="0.45"/>`);
    lines.push(`<rect x="${(xOf(median) - 1.5).toFixed(1)}" y="${y - 9}" width="3" height="18" fill="${colour}"/>`);
    lines.push(textAt(right + 10, y + 4, panel.format(median), `fill="${colour}"`));
  }
  return lines;
}

/** The whole picture: a title, a line about where it was measured, the panels below each other. */
export function plotSvg(title: string, subtitle: string, panels: readonly Panel[]): string {
  const lines: string[] = [];
  let top = 58;
  for (const panel of panels) {
    lines.push(...panelAt(top, panel));
    top += PANEL_HEAD + panel.rows.length * ROW_HEIGHT + PANEL_FOOT;
  }
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH}" height="${top}" viewBox="0 0 ${WIDTH} ${top}" role="img" aria-label="${escapeText(title)}">`,
    "<style>text{font:12px sans-serif;fill:#222}.title{font-size:17px;font-weight:600}.panel{font-weight:600}.tick{font-size:10.5px;fill:#666}.grid{stroke:#e3e3e3}.mark{stroke:#c00;stroke-dasharray:4 3}</style>",
    '<rect width="100%" height="100%" fill="#fff"/>',
    textAt(16, 28, title, 'class="title"'),
    textAt(16, 46, subtitle, 'class="tick"'),
    ...lines,
    "</svg>\n",
  ].join("\n");
}
