"""The style sheet of the training report: light and dark, from a phone to a wide screen."""

STYLE = """
:root { color-scheme: light dark; --surface: #fcfcfb; --card: #ffffff; --text: #1b1b1a;
  --muted: #63625d; --grid: #dddcd7; --curve-0: #2a72d4; --curve-1: #d0660e;
  --curve-2: #0f8f68; --curve-3: #7b4fd0; --curve-4: #c23a5e; }
@media (prefers-color-scheme: dark) {
  :root { --surface: #161615; --card: #1e1e1d; --text: #ecebe7; --muted: #a3a29b;
    --grid: #3a3a37; --curve-0: #69a5f5; --curve-1: #f0964a; --curve-2: #3fc197;
    --curve-3: #ae8ff2; --curve-4: #f07a98; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--surface); color: var(--text);
  font: 15px/1.45 system-ui, -apple-system, "Segoe UI", sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 20px 16px 40px; }
h1 { font-size: 26px; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 20px; margin: 32px 0 12px; }
h3 { font-size: 14px; margin: 0; }
h2 small, p, footer, figcaption { color: var(--muted); }
h2 small { font-size: 14px; font-weight: normal; margin-left: 6px; }
p { margin: 2px 0 16px; overflow-wrap: anywhere; }
footer { margin-top: 32px; font-size: 13px; }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px;
  margin: 0; }
dl div, .charts figure { background: var(--card); border: 1px solid var(--grid);
  border-radius: 8px; padding: 10px 12px; }
dt { color: var(--muted); font-size: 13px; }
dd { margin: 0; font-size: 21px; font-weight: 600; overflow-wrap: anywhere; }
dd small { display: block; color: var(--muted); font-size: 13px; font-weight: normal; }
figure { margin: 0; min-width: 0; }
.charts { display: grid; gap: 12px;
  grid-template-columns: repeat(auto-fill, minmax(min(320px, 100%), 1fr)); }
.charts h3 { color: var(--text); }
.charts figcaption { font-size: 13px; min-height: 44px; }
.charts b { color: var(--text); font-weight: 600; }
.key { display: inline-block; margin-right: 14px; }
.key i { display: inline-block; width: 10px; height: 10px; border-radius: 3px;
  margin-right: 5px; }
.warnings { margin: 0 0 12px; padding: 10px 12px 10px 28px; border: 1px solid var(--curve-1);
  border-radius: 8px; }
svg { display: block; width: 100%; height: auto; }
svg * { stroke-linejoin: round; }
svg text { font-family: inherit !important; font-variant-numeric: tabular-nums; }
img { display: block; width: 100%; height: auto; border-radius: 6px; }
.pictures { display: grid; gap: 16px; margin-top: 16px; align-items: start; }
@media (min-width: 900px) {
  .pictures { grid-template-columns: minmax(0, auto) minmax(300px, 1fr); } }
.pictures figcaption { font-size: 13px; margin-top: 4px; }
.pictures h3 { margin-bottom: 8px; }
.earlier { display: grid; gap: 12px; align-items: start;
  grid-template-columns: repeat(auto-fill, minmax(120px, 1fr)); }
summary { cursor: pointer; font-size: 20px; font-weight: 600; }
details { margin-top: 32px; }
pre { overflow-x: auto; background: var(--card); border: 1px solid var(--grid);
  border-radius: 8px; padding: 12px; font-size: 13px; }
"""
