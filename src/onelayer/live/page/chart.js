// Line charts on a canvas, with axes, labels and direct names of lines.

const LEFT = 50, RIGHT = 12, TOP = 10, BOTTOM = 34, FONT = 12;

// Colours of the style sheet at this moment, light or dark.
export function colours() {
  const style = getComputedStyle(document.documentElement);
  return name => style.getPropertyValue(`--${name}`).trim();
}

// Numbers in round steps from low to high.
function ticks(low, high, most, least = 0) {
  const rough = (high - low) / most || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map(m => m * power).find(s => s >= rough * 0.999 && s >= least) ?? least;
  const decimals = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  const found = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k++) found.push([k * step, Math.abs(high) < 1e4 ? (k * step).toFixed(decimals) : (k * step).toExponential(1)]);
  return found;
}

// Fit the canvas to its box and the screen, and return its context in CSS pixels, its width and its height.
export function prepare(canvas) {
  const ratio = devicePixelRatio || 1;
  const width = canvas.clientWidth, height = canvas.clientHeight;
  const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== w || canvas.height !== h) [canvas.width, canvas.height] = [w, h];
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  context.font = `${FONT}px ${getComputedStyle(canvas).fontFamily}`;
  return {context, width, height};
}

// Draw axes for x from x0 to x1 and y from y0 to y1; return functions from numbers to CSS pixels.
export function axes({context, width, height}, {x: [x0, x1], y: [y0, y1], xLabel, yLabel}, colour, whole = false) {
  const x = value => LEFT + (value - x0) / (x1 - x0) * (width - LEFT - RIGHT);
  const y = value => height - BOTTOM - (value - y0) / (y1 - y0) * (height - TOP - BOTTOM);
  context.lineWidth = 1;
  context.strokeStyle = colour("rule");
  context.fillStyle = colour("quiet");
  context.textBaseline = "middle";
  context.textAlign = "right";
  for (const [value, text] of ticks(y0, y1, Math.max(2, (height - TOP - BOTTOM) / 36))) {
    context.beginPath();
    context.moveTo(LEFT, y(value));
    context.lineTo(width - RIGHT, y(value));
    context.stroke();
    context.fillText(text, LEFT - 6, y(value));
  }
  context.textBaseline = "top";
  context.textAlign = "center";
  for (const [value, text] of ticks(x0, x1, Math.max(2, (width - LEFT - RIGHT) / 60), whole ? 1 : 0)) {
    context.fillText(text, x(value), height - BOTTOM + 5);
  }
  context.fillText(xLabel, LEFT + (width - LEFT - RIGHT) / 2, height - FONT - 1);
  context.save();
  context.translate(1, TOP + (height - TOP - BOTTOM) / 2);
  context.rotate(-Math.PI / 2);
  context.fillText(yLabel, 0, 0);
  context.restore();
  context.beginPath();
  context.rect(LEFT, TOP - 4, width - LEFT - RIGHT + 4, height - TOP - BOTTOM + 8);
  return {x, y, clip: () => context.clip()};
}

// Draw a line through points [x, y]; its name, if there is one, stands at its end or at its first point.
export function line(context, place, points, {colour, dash = [], wide = 1.8, name = "", above = true, first = false}) {
  const good = points.filter(([, v]) => Number.isFinite(v));
  if (!good.length) return;
  context.strokeStyle = context.fillStyle = colour;
  context.lineWidth = wide;
  context.setLineDash(dash);
  context.beginPath();
  for (const [a, b] of good) context.lineTo(place.x(a), place.y(b));
  context.stroke();
  context.setLineDash([]);
  const [a, b] = good.at(-1);
  if (good.length === 1) {
    context.beginPath();
    context.arc(place.x(a), place.y(b), wide + 0.7, 0, 7);
    context.fill();
  }
  if (name) {
    const [x, y] = first ? good[0] : [a, b];
    context.textAlign = !first && place.x(x) > LEFT + context.measureText(name).width + 4 ? "right" : "left";
    context.textBaseline = above ? "bottom" : "top";
    const at = [place.x(x) + (first ? 4 : 0), place.y(y) + (above ? -4 : 5)];
    context.strokeStyle = colours()("page"); // a rim, so that lines do not run through the letters
    context.lineWidth = 4;
    context.strokeText(name, ...at);
    context.fillText(name, ...at);
  }
}
