"use strict";
// From a board's numbers to what Plotly draws. Every function gives { traces, layout } or null where it has nothing.
PB.traces = (() => {
  const NONE = "−";
  const INK = {
    light: { text: "#1c1e21", muted: "#5b6067", grid: "#e7e7e3", line: "#b9bbb7", paper: "#ffffff" },
    dark: { text: "#e7e8ea", muted: "#a2a8b0", grid: "#2a2f37", line: "#545b66", paper: "#14171c" },
  };
  const ink = () => INK[PB.dark() ? "dark" : "light"];
  // Plotly reads some HTML in texts; names are texts only.
  const plain = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
  const signed = (x, digits = 1) => {
    const size = Math.abs(x).toFixed(digits);
    // What rounds to nothing has no sign.
    return (Number(size) === 0 ? "" : x < 0 ? NONE : "+") + size;
  };
  const shade = (colour, alpha) => {
    const part = (i) => parseInt(colour.slice(i, i + 2), 16);
    return `rgba(${part(1)},${part(3)},${part(5)},${alpha})`;
  };
  const colour = (row) => (PB.dark() ? row.dark : row.light);
  const mean = (xs) => xs.reduce((a, b) => a + b, 0) / xs.length;
  const deviation = (xs) => {
    if (xs.length < 2) return null;
    const m = mean(xs);
    return Math.sqrt(xs.reduce((a, x) => a + (x - m) ** 2, 0) / (xs.length - 1));
  };

  const look = (row, extra = {}) => {
    const filled = !row.hollow && !row.symbol.endsWith("-open");
    return {
      name: plain(row.title),
      line: { color: colour(row), dash: row.dash, width: 1.8 },
      marker: {
        color: row.hollow ? ink().paper : colour(row), symbol: row.symbol, size: 8,
        line: { color: filled ? ink().paper : colour(row), width: filled ? 0.8 : 2 },
      },
      ...extra,
    };
  };

  const axis = (title, extra = {}) => ({
    title: { text: title, standoff: 8 }, gridcolor: ink().grid, linecolor: ink().line, zerolinecolor: ink().line,
    tickcolor: ink().line, showline: true, ticks: "outside", ticklen: 4, automargin: true, ...extra,
  });

  const layout = (x, y, extra = {}) => ({
    autosize: true,
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', sans-serif", size: 12, color: ink().text },
    margin: { l: 52, r: 12, t: 10, b: 44 },
    showlegend: false, hovermode: "closest", hoverdistance: 30,
    dragmode: matchMedia("(pointer: fine)").matches ? "zoom" : false,
    hoverlabel: { bgcolor: ink().paper, bordercolor: ink().line, font: { color: ink().text, size: 12 }, align: "left", namelength: -1 },
    xaxis: x, yaxis: y, ...extra,
  });

  // One standard deviation to both sides of a curve.
  const band = (row, x, y, sd) => ({
    x: [...x, ...x.toReversed()],
    y: [...y.map((v, i) => v + sd[i]), ...y.map((v, i) => v - sd[i]).toReversed()],
    type: "scatter", mode: "lines", fill: "toself", fillcolor: shade(colour(row), 0.1), line: { width: 0 }, hoverinfo: "skip",
  });

  const shown = (board, state) => board.rows
    .map((row, i) => ({ row, i }))
    .filter(({ i }) => !state.hidden.has(i));
  const base = (board, row) => (row.base === null ? null : board.rows[row.base]);
  const difference = (state) => state.view === "difference";
  const unit = (state) => (difference(state) ? "difference (points)" : "user accuracy (%)");
  const zero = (state) => (difference(state) ? { zeroline: true, zerolinewidth: 1.5 } : { zeroline: false });
  const level = (state, template) => (difference(state) ? template.replace("%Y", "%{y:+.1f} points") : template.replace("%Y", "%{y:.1f}%"));

  // Known bounds of simulated data, as lines across the figure.
  const bounds = (board, state) => {
    if (difference(state)) return {};
    const lines = Object.entries(board.bounds);
    return {
      shapes: lines.map(([, at]) => ({
        type: "line", xref: "paper", x0: 0, x1: 1, y0: at[state.population], y1: at[state.population],
        line: { color: ink().muted, width: 1, dash: "dot" },
      })),
      annotations: lines.map(([name, at]) => ({
        text: name, xref: "paper", x: 1, xanchor: "right", y: at[state.population], yanchor: "bottom", showarrow: false,
        font: { color: ink().muted, size: 11 },
      })),
    };
  };

  function curve(board, state) {
    const ks = Array.from({ length: 100 }, (_, i) => i + 1);
    const bands = [], lines = [];
    for (const { row, i } of shown(board, state)) {
      const own = row.curve?.[state.population];
      const [y, sd] = own ? (difference(state) ? [own.difference, own.difference_sd] : [own.mean, own.sd]) : [];
      if (!y) continue;
      if (sd.every((v) => v !== null)) {
        bands.push(band(row, ks, y, sd));
      }
      const style = look(row);
      // A marker every 20 points, each method at its own.
      style.marker.size = ks.map((k) => (k % 20 === (4 + 2 * i) % 20 ? 8 : 0));
      style.marker.opacity = 1;
      lines.push({
        ...style, x: ks, y, customdata: sd.map((v) => (v === null ? "" : ` ± ${v.toFixed(1)}`)), type: "scatter", mode: "lines+markers",
        hovertemplate: level(state, "<b>%{fullData.name}</b><br>worst %{x}%: %Y%{customdata}<extra></extra>"),
      });
    }
    return { traces: [...bands, ...lines], layout: layout(axis("worst k% of users", { range: [0, 101] }), axis(unit(state), zero(state))) };
  }

  // Mean and standard deviation over splits of a row, or of its difference from its baseline.
  const overSplits = (board, row, state) => {
    const own = row.split[state.population];
    if (!difference(state)) {
      const m = row.mean[state.population];
      return m && { y: m.accuracy, sd: m.sd };
    }
    const other = base(board, row)?.split[state.population];
    const both = other ? own.map((v, s) => (v === null || other[s] === null ? null : v - other[s])).filter((v) => v !== null) : [];
    return both.length ? { y: mean(both), sd: deviation(both) } : null;
  };

  function flips(board, state) {
    const traces = [];
    for (const { row } of shown(board, state)) {
      const m = row.mean[state.population], at = row.ranked && overSplits(board, row, state);
      if (!m || !at) continue;
      const style = look(row);
      style.marker.size = 11;
      traces.push({
        ...style, x: [m.flips], y: [at.y], type: "scatter", mode: "markers", cliponaxis: false,
        error_y: { type: "data", array: [at.sd ?? 0], color: shade(colour(row), 0.55), thickness: 1.2, width: 0 },
        customdata: [[at.sd === null ? "" : ` ± ${at.sd.toFixed(1)}`, m.cold.toFixed(1)]],
        hovertemplate: level(state, "<b>%{fullData.name}</b><br>%Y%{customdata[0]}<br>flips %{x:.1f}% of decisions<br>cold start %{customdata[1]}%<extra></extra>"),
      });
    }
    const x = axis("decisions that adaptation changes (%)", { rangemode: "tozero", zeroline: false });
    return { traces, layout: layout(x, axis(unit(state), zero(state)), bounds(board, state)) };
  }

  function splits(board, state) {
    const traces = [];
    for (const { row } of shown(board, state)) {
      const own = row.split[state.population], other = base(board, row)?.split[state.population];
      if (difference(state) && !other) continue;
      const y = own.map((v, s) => (v === null ? null : difference(state) ? (other[s] === null ? null : v - other[s]) : v));
      if (y.every((v) => v === null)) continue;
      traces.push({
        ...look(row), x: board.splits, y, type: "scatter", mode: "lines+markers", connectgaps: false,
        hovertemplate: level(state, "<b>%{fullData.name}</b><br>split %{x}: %Y<extra></extra>"),
      });
      Object.assign(traces.at(-1).line, { width: 1.2 });
      Object.assign(traces.at(-1).marker, { size: 6 });
    }
    const whole = board.splits.length < 12 ? { tickmode: "array", tickvals: board.splits } : {};
    return { traces, layout: layout(axis("split", { zeroline: false, ...whole }), axis(unit(state), zero(state))) };
  }

  function users(board, state) {
    const traces = [];
    const tested = board.tested[state.population];
    for (const { row, i } of shown(board, state)) {
      const own = row.user[state.population]?.[difference(state) ? "gain" : "accuracy"];
      if (!own) continue;
      const known = own.map((v, u) => [v, u]).filter(([v]) => v !== null).sort((a, b) => a[0] - b[0]);
      const style = look(row);
      const step = Math.max(1, Math.round(known.length / 5));
      style.marker.size = known.map((_, n) => ((n + Math.round(i * step / 6)) % step === 0 ? 8 : 0));
      traces.push({
        ...style, x: known.map((_, n) => (100 * (n + 0.5)) / known.length), y: known.map(([v]) => v),
        customdata: known.map(([, u]) => [board.users[u], tested[u]]), type: "scatter", mode: "lines+markers",
        hovertemplate: level(state, "<b>%{fullData.name}</b><br>user %{customdata[0]}: %Y<br>tested in %{customdata[1]} splits<extra></extra>"),
      });
    }
    return { traces, layout: layout(axis("users, in rising order (%)", { range: [0, 100], zeroline: false }), axis(unit(state), zero(state))) };
  }

  function shots(board, state) {
    const names = [...new Set(board.rows.flatMap((row) => row.shots.map((s) => s.shots)))]
      .sort((a, b) => (a === "all") - (b === "all") || Number(a) - Number(b));
    const bands = [], traces = [];
    for (const { row } of shown(board, state)) {
      const other = new Map((base(board, row)?.shots ?? []).map((s) => [s.shots, s.accuracy]));
      const points = row.shots.filter((s) => !difference(state) || other.has(s.shots));
      if (!points.length || (difference(state) && row.base === null)) continue;
      if (!difference(state) && points.every((s) => s.sd !== null)) {
        bands.push(band(row, points.map((s) => s.shots), points.map((s) => s.accuracy), points.map((s) => s.sd)));
      }
      traces.push({
        ...look(row), x: points.map((s) => s.shots), y: points.map((s) => s.accuracy - (difference(state) ? other.get(s.shots) : 0)),
        customdata: points.map((s) => (difference(state) || s.sd === null ? "" : ` ± ${s.sd.toFixed(1)}`)), type: "scatter", mode: "lines+markers",
        hovertemplate: level(state, "<b>%{fullData.name}</b><br>%{x} shots: %Y%{customdata}<extra></extra>"),
      });
    }
    const x = axis("support comparisons of each unseen user", { type: "category", categoryorder: "array", categoryarray: names });
    return { traces: [...bands, ...traces], layout: layout(x, axis(unit(state), zero(state))) };
  }

  function parameters(board, state) {
    const at = [...new Set(Array.from({ length: 41 }, (_, i) => Math.round(10 ** (i / 10))))];
    const tens = [1, 10, 100, 1000, 10000];
    const traces = [];
    for (const { row, i } of shown(board, state)) {
      if (!row.parameters || row.parameters[0] + row.parameters[1] === 0) continue;
      const [shared, each] = row.parameters;
      const style = look(row);
      // Methods of equal size overlap: each has its markers at other numbers of users.
      style.marker.size = at.map((_, n) => (n > 3 && n % 6 === i % 6 ? 8 : 0));
      traces.push({
        ...style, x: at, y: at.map((u) => shared + each * u), type: "scatter", mode: "lines+markers",
        hovertemplate: `<b>%{fullData.name}</b><br>%{y:,.0f} numbers for %{x:,} users<br>${shared.toLocaleString("en")} shared, ${each.toLocaleString("en")} per user<extra></extra>`,
      });
      if (board.population) {
        traces.push({
          x: [board.population], y: [shared + each * board.population], type: "scatter", mode: "markers", hoverinfo: "skip",
          marker: { symbol: "circle-open", size: 13, color: ink().muted, line: { width: 1.2 } },
        });
      }
    }
    const log = { type: "log", tickformat: "~s" };
    return { traces, layout: layout(axis("users", { ...log, tickvals: tens }), axis("trained numbers", { ...log, dtick: 1 })) };
  }

  return { draw: { curve, flips, splits, users, shots, parameters }, signed, NONE };
})();
