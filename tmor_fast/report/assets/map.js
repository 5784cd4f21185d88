// The map of embeddings: hover or tap names a clip, the legend lists what the colours mean and picks some of them.
function startMap() {
  const points = DATA.map;
  const canvas = document.getElementById("map");
  if (!points || !canvas) return;
  const readout = document.getElementById("map-readout");
  const tip = document.getElementById("map-tip");
  const legend = document.getElementById("map-legend");
  const count = points.x.length;
  let grey = ink("--noise");
  let by = "action";
  let picked = new Set();
  let current = -1;
  let size = { width: 0, height: 0, scale: 1, left: 0, top: 0 };

  const groupOf = (i) => points[by][i];
  const nameOf = (group) => {
    if (by === "action") return group < 0 ? "no action named" : points.actions[group];
    if (group === -1) return "noise (in no cluster)";
    return group < 0 ? "not clustered (outside the training)" : "cluster " + (group + 1);
  };
  const at = (i) => [size.left + points.x[i] * size.scale, size.top + points.y[i] * size.scale];

  function draw() {
    const width = canvas.parentElement.clientWidth;
    const height = Math.round(Math.min(560, Math.max(300, width * 0.75)));
    const scale = Math.min(width, height) - 28;
    size = { width, height, scale, left: (width - scale) / 2, top: (height - scale) / 2 };
    // A wide plane may use the whole width.
    const spanX = Math.max(...points.x) - Math.min(...points.x), spanY = Math.max(...points.y) - Math.min(...points.y);
    const fit = Math.min((width - 28) / Math.max(spanX, 1e-6), (height - 28) / Math.max(spanY, 1e-6));
    if (isFinite(fit) && fit > scale && fit < 10 * scale) {
      size.scale = fit;
      size.left = width / 2 - 0.5 * fit;
      size.top = height / 2 - 0.5 * fit;
    }
    const context = sized(canvas, width, height);
    const radius = count > 1500 ? 2.6 : count > 400 ? 3.4 : 4.5;
    // Grey ones first, so that they hide no cluster.
    const order = [...Array(count).keys()].sort((a, b) => Math.min(groupOf(a), 0) - Math.min(groupOf(b), 0));
    const shown = (i) => !picked.size || picked.has(groupOf(i));
    for (const front of [false, true])
      for (const i of order) {
        if (shown(i) !== front) continue;
        const group = groupOf(i);
        const [x, y] = at(i);
        context.globalAlpha = front ? (group < 0 ? 0.55 : 0.85) : 0.18;
        context.fillStyle = group < 0 || !front ? grey : colour(group);
        context.save();
        context.translate(x, y);
        context.scale(radius, radius);
        context.fill(PATHS[shape(group)], "evenodd");
        context.restore();
      }
    context.globalAlpha = 1;
    if (current >= 0) {
      const [x, y] = at(current);
      context.strokeStyle = ink("--ink");
      context.lineWidth = 2;
      context.beginPath();
      context.arc(x, y, radius + 4, 0, 2 * Math.PI);
      context.stroke();
    }
  }

  function words(i) {
    const parts = [points.clip[i]];
    parts.push(points.action[i] < 0 ? "no action named" : points.actions[points.action[i]]);
    if (points.cluster) {
      const cluster = points.cluster[i];
      parts.push(cluster >= 0 ? "cluster " + (cluster + 1) : cluster === -1 ? "noise" : "not clustered");
    }
    if (points.split[i]) parts.push(points.split[i]);
    if (points.stores.length > 1) parts.push(points.stores[points.store[i]]);
    return parts;
  }

  function nearest(x, y, reach) {
    let best = -1, least = reach * reach;
    for (let i = 0; i < count; i++) {
      if (picked.size && !picked.has(groupOf(i))) continue;
      const [px, py] = at(i);
      const away = (px - x) ** 2 + (py - y) ** 2;
      if (away < least) { least = away; best = i; }
    }
    return best;
  }

  function show(i, tipToo) {
    if (i === current && !tip.hidden === tipToo) return;
    current = i;
    draw();
    tip.hidden = i < 0 || !tipToo;
    if (i < 0) return;
    const [clip, ...rest] = words(i);
    readout.replaceChildren(make("strong", {}, clip), " · " + rest.join(" · "));
    if (points.caption[i]) readout.append(" · “" + points.caption[i] + "”");
    if (!tipToo) return;
    tip.replaceChildren(make("strong", {}, clip), make("br", {}), rest.join(" · "));
    const [x, y] = at(i);
    const box = tip.getBoundingClientRect();
    tip.style.left = Math.max(0, Math.min(size.width - box.width, x + 12)) + "px";
    tip.style.top = (y + 16 + box.height > size.height ? y - box.height - 10 : y + 14) + "px";
  }

  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  canvas.addEventListener("pointermove", (event) => {
    if (event.pointerType !== "touch") show(nearest(...place(event), 14), true);
  });
  canvas.addEventListener("pointerleave", () => { tip.hidden = true; });
  canvas.addEventListener("click", (event) => show(nearest(...place(event), 24), true));
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    let next = current;
    for (let turn = 0; turn < count; turn++) {
      next = (next + step + count) % count;
      if (!picked.size || picked.has(groupOf(next))) break;
    }
    show(next, true);
  });

  function fillLegend() {
    const sizes = new Map();
    for (let i = 0; i < count; i++) sizes.set(groupOf(i), (sizes.get(groupOf(i)) || 0) + 1);
    const groups = [...sizes.keys()].sort((a, b) => (by === "action" && a >= 0 && b >= 0 ? a - b : sizes.get(b) - sizes.get(a)));
    legend.replaceChildren(...groups.map((group) => {
      const button = make("button", { type: "button", "aria-pressed": String(picked.has(group)) },
        glyph(group), make("span", { class: "name" }, nameOf(group)), make("span", { class: "count" }, String(sizes.get(group))));
      button.addEventListener("click", () => {
        if (!picked.delete(group)) picked.add(group);
        button.setAttribute("aria-pressed", String(picked.has(group)));
        all.disabled = !picked.size;
        draw();
      });
      return make("li", {}, button);
    }));
    all.disabled = !picked.size;
    const repeats = groups.length > SHAPES.length * COLOURS.light.length;
    document.getElementById("map-repeats").hidden = !repeats;
  }
  const all = document.getElementById("map-all");
  all.addEventListener("click", () => { picked = new Set(); fillLegend(); draw(); });
  for (const radio of document.querySelectorAll("input[name=map-by]"))
    radio.addEventListener("change", () => {
      by = radio.value;
      picked = new Set();
      fillLegend();
      draw();
    });
  redrawn(() => {
    grey = ink("--noise");
    fillLegend();
    draw();
  });
}
