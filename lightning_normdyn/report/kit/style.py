"""The page's style sheet."""

CSS = """
:root { color-scheme: light; --ink: #1f2933; --faint: #616e7c; --rule: #dde2e7; --paper: #f6f7f9; --blue: #0b5c8e; }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; scroll-behavior: smooth; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", Arial, sans-serif;
  font-variant-numeric: tabular-nums; overflow-wrap: break-word; }
main, header, footer { max-width: 1180px; margin: 0 auto; padding: 0 28px; }
header { padding-top: 44px; }
h1 { margin: 0 0 6px; font-size: 2rem; line-height: 1.2; letter-spacing: -0.015em; text-wrap: balance; }
h2 { margin: 56px 0 2px; font-size: 1.45rem; line-height: 1.25; letter-spacing: -0.01em; }
h3 { margin: 0 0 14px; font-size: 1.06rem; line-height: 1.3; }
h4 { margin: 0 0 6px; font-size: 0.9rem; font-weight: 500; color: var(--faint); }
p { margin: 0 0 12px; }
a { color: var(--blue); text-underline-offset: 2px; }
.facts, .note { color: var(--faint); font-size: 0.93rem; }
.facts { margin: 0 0 20px; }
.lead { max-width: 62ch; margin: 18px 0 6px; font-size: 1.22rem; line-height: 1.5; text-wrap: pretty; }
nav ul { display: flex; flex-wrap: wrap; gap: 4px 22px; margin: 14px 0 0; padding: 0; list-style: none; }
.grid { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 22px; }
.card { margin: 0; padding: 22px 24px 18px; background: #fff; border: 1px solid var(--rule); border-radius: 10px; }
.card.wide { grid-column: 1 / -1; }
.panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr)); gap: 16px 34px; }
.card:not(.wide) .panels, .card.beside .panels { grid-template-columns: minmax(0, 1fr); }
.panel { min-width: 0; }
.panel > svg { display: block; width: 100%; height: auto; overflow: visible; }
.panel > svg * { stroke-linejoin: round; stroke-linecap: butt; }
.panel > svg text { font-family: inherit !important; }
figcaption { margin-top: 14px; padding: 12px max(0px, calc(100% - 80ch)) 0 0; border-top: 1px solid var(--rule);
  color: var(--faint); font-size: 0.93rem; line-height: 1.5; text-wrap: pretty; }
@media (min-width: 861px) {
  .card.beside { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 0 34px; }
  .card.beside h3 { grid-column: 1 / -1; }
  .card.beside figcaption { align-self: center; margin: 0; padding: 0; border: 0; }
}
.tables { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 430px), 1fr)); gap: 22px 48px;
  align-items: start; margin: 20px 0 26px; }
table { width: 100%; border-collapse: collapse; font-size: 0.95rem; line-height: 1.35; }
caption { padding: 0 0 6px; text-align: left; font-weight: 600; }
th, td { padding: 7px 0 7px 14px; border-bottom: 1px solid var(--rule); text-align: right; vertical-align: baseline; }
th:first-child, td:first-child { padding-left: 0; text-align: left; }
thead th { color: var(--faint); font-weight: 500; font-size: 0.87rem; }
tbody th { font-weight: 400; }
td { white-space: nowrap; }
td.word { width: 100%; max-width: 0; overflow: hidden; text-overflow: ellipsis; }
td.main { font-weight: 650; }
.laws th, .laws td { vertical-align: top; }
.laws thead th { vertical-align: bottom; }
.tables > div { min-width: 0; overflow-x: auto; }
p.how { margin: 7px 0 0; }
.how { display: block; color: var(--faint); font-size: 0.85rem; }
.findings { max-width: 720px; }
.words { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 0 28px; align-items: start; }
details { margin: 18px 0 0; }
summary { cursor: pointer; color: var(--blue); }
details table { max-width: 640px; margin-top: 10px; font-size: 0.9rem; }
footer { margin-top: 56px; padding-top: 16px; padding-bottom: 44px; color: var(--faint); font-size: 0.88rem; }
@media (max-width: 860px) { .grid { grid-template-columns: minmax(0, 1fr); } }
@media (max-width: 520px) {
  main, header, footer { padding-left: 14px; padding-right: 14px; }
  header { padding-top: 26px; }
  h1 { font-size: 1.6rem; }
  h2 { margin-top: 42px; font-size: 1.28rem; }
  .lead { font-size: 1.08rem; }
  .card { padding: 16px 10px 14px; border-radius: 8px; }
  .grid { gap: 14px; }
  .panel > svg text { font-size: 10.5px !important; }
  th, td { padding-left: 9px; }
  .laws { font-size: 0.82rem; }
  .laws tr > * + * { padding-left: 5px; }
  .laws thead th, .laws .how { font-size: 0.74rem; }
  .words { grid-template-columns: minmax(0, 1fr); gap: 14px; }
}
@media print {
  body { background: #fff; }
  .grid { display: block; }
  .card { break-inside: avoid; margin-bottom: 18px; }
}
"""
