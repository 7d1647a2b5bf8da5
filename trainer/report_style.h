// Style sheet of the report: light and dark by the reader's preference, no outside files.
#pragma once

namespace sepia::trainer {

inline constexpr char kReportStyle[] = R"css(
:root { --page: #f6f6f3; --card: #fff; --ink: #1c1c1a; --soft: #63625c; --rule: #e2e1da;
  --blue: #2f6fb0; --pale: #a9c6e3; --orange: #c9601a; --green: #3c8a57; --violet: #7a5aa6; }
@media (prefers-color-scheme: dark) { :root { --page: #161615; --card: #1f1f1d; --ink: #ecebe5;
  --soft: #a3a198; --rule: #35342f; --blue: #6ea8de; --pale: #3c5670; --orange: #e8934f;
  --green: #6cbd88; --violet: #ab8cd6; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
main { max-width: 1200px; margin: 0 auto; padding: 28px 24px 60px; }
h1 { font-size: 24px; margin: 0; letter-spacing: -0.01em; overflow-wrap: anywhere; }
h2 { font-size: 17px; margin: 34px 0 10px; }
p { margin: 4px 0; } .soft, .none { color: var(--soft); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(190px, 1fr)); gap: 10px;
  margin-top: 18px; }
.tile, figure, pre, .kept { background: var(--card); border: 1px solid var(--rule);
  border-radius: 8px; }
.tile { padding: 10px 14px; } .tile span { display: block; color: var(--soft); font-size: 12.5px; }
.tile b { font-size: 19px; font-weight: 600; font-variant-numeric: tabular-nums; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(440px, 1fr)); gap: 14px; }
figure { margin: 0; padding: 12px 14px 6px; } figcaption { font-size: 13.5px; color: var(--soft); }
figcaption b { color: var(--ink); margin-right: 12px; font-weight: 600; }
svg { width: 100%; height: auto; display: block; margin-top: 6px; }
.key { margin-right: 12px; white-space: nowrap; } .key::before { content: ""; width: 12px;
  height: 3px; border-radius: 2px; display: inline-block; vertical-align: middle;
  margin-right: 5px; background: currentColor; }
.key.raw { color: var(--pale); } .key.smooth, .key.plain { color: var(--blue); }
.key.valid { color: var(--orange); }
.grid { stroke: var(--rule); stroke-width: 1; } .axis { stroke: var(--soft); stroke-width: 1; }
.mark { stroke: var(--violet); stroke-dasharray: 4 3; stroke-width: 1.5; }
.tick { fill: var(--soft); font-size: 11px; }
.line { fill: none; stroke-width: 1.6; stroke-linejoin: round; }
.line.raw { stroke: var(--pale); stroke-width: 1; } .line.smooth, .line.plain { stroke: var(--blue); }
.line.valid { stroke: var(--orange); } .dot.valid { fill: var(--orange); }
.dot.raw, .dot.smooth, .dot.plain { fill: var(--blue); }
pre { padding: 12px 14px; margin: 8px 0; overflow: auto; max-height: 460px; font-size: 12.5px;
  line-height: 1.45; white-space: pre-wrap; overflow-wrap: anywhere; }
details { margin: 6px 0; } summary { cursor: pointer; color: var(--soft); }
.mask { display: grid; grid-template-columns: minmax(300px, 560px) minmax(280px, 1fr); gap: 14px;
  align-items: start; }
.future { fill: var(--page); } rect.initial { fill: var(--violet); }
rect.separator { fill: var(--orange); } rect.near { fill: var(--blue); }
.key.initial { color: var(--violet); } .key.separator { color: var(--orange); }
.key.near { color: var(--blue); }
.kept { border-collapse: separate; border-spacing: 0; padding: 10px 14px; font-size: 13px;
  font-variant-numeric: tabular-nums; }
.kept th { text-align: left; font-weight: 500; color: var(--soft); padding-bottom: 6px; }
.kept td:last-child, .kept th:last-child { text-align: right; } .bar { width: 60%; }
.bar i { display: block; height: 9px; background: var(--blue); border-radius: 2px; min-width: 1px; }
@media (max-width: 720px) { .mask, .charts { grid-template-columns: 1fr; } }
)css";

}  // namespace sepia::trainer
