// The trade-off of any two metrics over the compared scenarios, with the defenses that no other dominates.
const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 860;
const LABELS = 250; // room on the right, where the names stand
const GAP = 15;

function draw(tag, attributes, text) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

// [mean, low, high] of a metric, in percent for shares; null where it was not measured.
function metricOf(standing, key) {
  const share = data.shares.indexOf(key);
  if (share >= 0) {
    const value = standing[3][share];
    if (!value) return null;
    const [mean, low = mean, high = mean] = value;
    return [mean / 10, low / 10, high / 10];
  }
  const value = standing[4][data.costs.indexOf(key)];
  return value === null || value === undefined ? null : [value, value, value];
}

function ticks(low, high) {
  const rough = (high - low) / 5 || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
  const made = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step / 1e6; value += step) made.push(value);
  return made;
}

// The ends of an axis: all defenses, not the reference rows, which would squeeze everything else into a corner.
function range(pointsShown, axis, share) {
  const counted = pointsShown.some((point) => !point.reference) ? pointsShown.filter((point) => !point.reference) : pointsShown;
  const values = counted.flatMap((point) => point[axis]);
  let low = Math.min(...values);
  let high = Math.max(...values);
  if (share) [low, high] = [Math.max(0, low - 2), Math.min(100, high + 2)];
  else low = 0;
  const room = (high - low || 1) * 0.05;
  return [low - room, high + room];
}

function paretoFront(pointsShown, better) {
  const worth = (point) => [better.x * point.x[0], better.y * point.y[0]];
  const dominates = (a, b) => a[0] >= b[0] && a[1] >= b[1] && (a[0] > b[0] || a[1] > b[1]);
  const ranked = pointsShown.filter((point) => !point.reference);
  return ranked.filter((point) => !ranked.some((other) => dominates(worth(other), worth(point))))
    .sort((a, b) => a.x[0] - b.x[0] || a.y[0] - b.y[0]);
}

// Label positions that keep their order and their distance.
function spreadOut(wanted, top, bottom) {
  const places = [...wanted];
  for (let i = 0; i < places.length; i += 1) places[i] = Math.max(places[i], i ? places[i - 1] + GAP : top);
  for (let i = places.length - 1; i >= 0; i -= 1) {
    places[i] = Math.min(places[i], i < places.length - 1 ? places[i + 1] - GAP : bottom);
  }
  return places;
}

function showTradeOff(visible) {
  const figure = document.getElementById("pareto");
  if (!figure) return;
  const axis = (key) => data.axes.find(([name]) => name === key) ?? data.axes[0];
  const [axisX, axisY] = [axis(state.x), axis(state.y)];
  const better = { x: axisX[2] ? 1 : -1, y: axisY[2] ? 1 : -1 };
  const all = data.views["*"].map((standing) => ({
    d: standing[0],
    group: standing[1],
    reference: data.defenses[standing[0]].reference,
    x: metricOf(standing, axisX[0]),
    y: metricOf(standing, axisY[0]),
  })).filter((point) => point.x && point.y && visible[point.d]);
  const said = document.getElementById("front");
  const place = figure.querySelector(".drawing");
  if (!all.length) {
    place.replaceChildren(el("p", { class: "quiet" }, "No defense that is shown has both values."));
    said.textContent = "";
    return;
  }
  const shares = { x: data.shares.includes(axisX[0]), y: data.shares.includes(axisY[0]) };
  const rangeX = range(all, "x", shares.x);
  const rangeY = range(all, "y", shares.y);
  const inside = (value, [low, high]) => value >= low && value <= high;
  const drawn = all.filter((point) => inside(point.x[0], rangeX) && inside(point.y[0], rangeY));
  const front = paretoFront(drawn, better);
  const named = drawn.length > 30 ? front : drawn;
  const height = Math.max(380, named.length * GAP + 80);
  const frame = { left: 52, right: WIDTH - LABELS, top: 14, bottom: height - 46 };
  const clip = (value, [low, high]) => Math.min(high, Math.max(low, value));
  const toX = (value) => frame.left + ((clip(value, rangeX) - rangeX[0]) / (rangeX[1] - rangeX[0])) * (frame.right - frame.left);
  const toY = (value) => frame.bottom - ((clip(value, rangeY) - rangeY[0]) / (rangeY[1] - rangeY[0])) * (frame.bottom - frame.top);
  const label = ([, text, more], share) => `${text}${share ? " (%)" : ""}, ${more ? "more" : "less"} is better`;
  const name = `${axisY[1]} against ${axisX[1]}`;
  const svg = draw("svg", { viewBox: `0 0 ${WIDTH} ${height}`, role: "img", "aria-label": name, class: "plot" });

  for (const value of ticks(...rangeX)) {
    svg.append(draw("line", { x1: toX(value), x2: toX(value), y1: frame.top, y2: frame.bottom, class: "grid" }));
    svg.append(draw("text", { x: toX(value), y: frame.bottom + 17, class: "tick", "text-anchor": "middle" }, cost(+value.toFixed(6))));
  }
  for (const value of ticks(...rangeY)) {
    svg.append(draw("line", { x1: frame.left, x2: frame.right, y1: toY(value), y2: toY(value), class: "grid" }));
    svg.append(draw("text", { x: frame.left - 7, y: toY(value) + 4, class: "tick", "text-anchor": "end" }, cost(+value.toFixed(6))));
  }
  svg.append(draw("text", { x: (frame.left + frame.right) / 2, y: height - 8, class: "label", "text-anchor": "middle" }, label(axisX, shares.x)));
  const turned = `translate(13 ${(frame.top + frame.bottom) / 2}) rotate(-90)`;
  svg.append(draw("text", { transform: turned, class: "label", "text-anchor": "middle" }, label(axisY, shares.y)));
  if (front.length > 1) {
    svg.append(draw("polyline", { points: front.map((p) => `${toX(p.x[0])},${toY(p.y[0])}`).join(" "), class: "front" }));
  }

  const labels = [...named].sort((a, b) => toY(a.y[0]) - toY(b.y[0]) || toX(b.x[0]) - toX(a.x[0]));
  const places = spreadOut(labels.map((point) => toY(point.y[0])), frame.top + 4, frame.bottom);
  labels.forEach((point, index) => {
    const [x, y, at] = [toX(point.x[0]), toY(point.y[0]), places[index]];
    svg.append(draw("polyline", { points: `${x},${y} ${frame.right + 4},${at} ${frame.right + 12},${at}`, class: "lead" }));
  });
  for (const point of drawn) {
    const [x, y] = [toX(point.x[0]), toY(point.y[0])];
    const kind = point.reference ? "reference" : point.group === 0 ? "ranked" : "out";
    const mark = draw("g", { class: `mark ${kind}${front.includes(point) ? " best" : ""}` });
    mark.append(draw("title", {}, `${data.defenses[point.d].title}: ${axisX[1]} ${cost(point.x[0])}, ${axisY[1]} ${cost(point.y[0])}`));
    if (point.x[1] !== point.x[2]) mark.append(draw("line", { x1: toX(point.x[1]), x2: toX(point.x[2]), y1: y, y2: y }));
    if (point.y[1] !== point.y[2]) mark.append(draw("line", { x1: x, x2: x, y1: toY(point.y[1]), y2: toY(point.y[2]) }));
    if (kind === "ranked") mark.append(draw("circle", { cx: x, cy: y, r: 5 }));
    else if (kind === "reference") mark.append(draw("rect", { x: x - 4.5, y: y - 4.5, width: 9, height: 9 }));
    else mark.append(draw("path", { d: `M${x - 4.5} ${y - 4.5}l9 9m0 -9l-9 9` }));
    svg.append(mark);
  }
  labels.forEach((point, index) => {
    const title = data.defenses[point.d].title;
    const text = title.length > 34 ? `${title.slice(0, 33)}\u2026` : title;
    svg.append(draw("text", { x: frame.right + 16, y: places[index] + 4, class: front.includes(point) ? "name best" : "name" }, text));
  });
  place.replaceChildren(svg);
  const names = front.map((point) => data.defenses[point.d].title).join(", ");
  said.textContent = `Not dominated in ${axisX[1].toLowerCase()} and ${axisY[1].toLowerCase()}: ${names}.`
    + (drawn.length < all.length ? ` ${all.length - drawn.length} reference rows lie outside the drawing.` : "");
}
