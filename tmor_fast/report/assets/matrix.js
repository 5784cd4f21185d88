// The confusion matrix: each row is a true class and sums to 100 %; blue on the diagonal, orange beside it.
function startMatrix() {
  const canvas = document.getElementById("matrix");
  if (!canvas || !DATA.matrices.length) return;
  const choice = document.getElementById("matrix-choice");
  const readout = document.getElementById("matrix-readout");
  const box = canvas.parentElement;
  let chosen = 0, cell = 10, left = 0, top = 0, current = null, counts = new Map();
  let letters = 24;
  // The middle goes: names of actions often differ in their ends, such as the side of the body.
  const cut = (name) => (name.length > letters
    ? name.slice(0, Math.ceil(letters / 2) - 1) + "…" + name.slice(-Math.floor(letters / 2)) : name);

  function open(number) {
    chosen = number;
    current = null;
    readout.textContent = readout.dataset.hint;
    counts = new Map();
    const { cells, labels } = DATA.matrices[chosen];
    for (let i = 0; i < cells.length; i += 3) counts.set(cells[i] * labels.length + cells[i + 1], cells[i + 2]);
    for (const part of document.querySelectorAll("[data-result]")) part.hidden = Number(part.dataset.result) !== chosen;
    box.scrollLeft = 0;
    draw();
  }

  function draw() {
    const { labels, support, name } = DATA.matrices[chosen];
    const total = labels.length;
    const room = box.clientWidth - 16;
    // On a phone long names would leave no room for the cells.
    letters = room < 600 ? 15 : 24;
    const measure = canvas.getContext("2d");
    measure.font = "12px system-ui, sans-serif";
    const longest = Math.max(...labels.map((label) => measure.measureText(cut(label)).width));
    // With names a cell is as high as a line of text; without them the matrix fits the box as far as it can.
    const named = total <= 90;
    left = named ? Math.ceil(longest) + 26 : 26;
    top = named ? Math.ceil(longest * 0.82) + 34 : 26;
    // Slanted names of the last columns stick out to the right.
    const slant = named ? Math.ceil(longest * 0.58) + 8 : 4;
    cell = Math.max(named ? 14 : 3, Math.min(34, Math.floor((room - left - slant) / total)));
    const width = left + total * cell + slant;
    const context = sized(canvas, width, top + total * cell + 4);
    context.font = "12px system-ui, sans-serif";
    context.fillStyle = ink("--soft");
    context.save();
    context.translate(11, top + (total * cell) / 2);
    context.rotate(-Math.PI / 2);
    context.textAlign = "center";
    context.fillText("true", 0, 0);
    context.restore();
    context.textAlign = "left";
    context.fillText("predicted →", Math.min(left, 26), 12);
    context.fillStyle = ink("--ink");
    if (named) labels.forEach((label, i) => {
      context.textAlign = "right";
      context.fillText(cut(label), left - 6, top + i * cell + cell / 2 + 4);
      context.save();
      context.translate(left + i * cell + cell / 2 + 3, top - 6);
      context.rotate(-Math.PI / 3.1);
      context.textAlign = "left";
      context.fillText(cut(label), 0, 0);
      context.restore();
    });
    context.fillStyle = ink("--cell");
    context.fillRect(left, top, total * cell, total * cell);
    const gap = cell > 8 ? 1 : 0;
    context.textAlign = "center";
    for (const [place, count] of counts) {
      const row = Math.floor(place / total), column = place % total;
      const share = count / support[row];
      context.globalAlpha = 0.15 + 0.85 * share;
      context.fillStyle = ink(row === column ? "--right" : "--wrong");
      context.fillRect(left + column * cell, top + row * cell, cell - gap, cell - gap);
      context.globalAlpha = 1;
      if (cell < 24) continue;
      context.fillStyle = share > 0.55 ? ink("--on-cell") : ink("--ink");
      context.font = "10px system-ui, sans-serif";
      context.fillText(Math.round(100 * share), left + (column + 0.5) * cell, top + (row + 0.5) * cell + 3.5);
    }
    if (current) {
      context.strokeStyle = ink("--ink");
      context.lineWidth = 2;
      context.strokeRect(left + current[1] * cell, top + current[0] * cell, cell, cell);
    }
    canvas.setAttribute("aria-label", `Confusion matrix of ${name}: ${total} classes, rows true, columns predicted`);
  }

  function show(row, column) {
    if (current && current[0] === row && current[1] === column) return;
    current = [row, column];
    const { labels, support } = DATA.matrices[chosen];
    const count = counts.get(row * labels.length + column) || 0;
    const share = support[row] ? ` (${((100 * count) / support[row]).toFixed(1)} %)` : "";
    readout.replaceChildren(
      make("strong", {}, labels[row]), row === column ? " recognised: " : " taken for ",
      ...(row === column ? [] : [make("strong", {}, labels[column]), ": "]), `${count} of ${support[row]} clips${share}`);
    draw();
  }

  function point(event) {
    const area = canvas.getBoundingClientRect();
    const column = Math.floor((event.clientX - area.left - left) / cell);
    const row = Math.floor((event.clientY - area.top - top) / cell);
    const total = DATA.matrices[chosen].labels.length;
    if (row >= 0 && column >= 0 && row < total && column < total) show(row, column);
  }
  canvas.addEventListener("pointermove", (event) => { if (event.pointerType !== "touch") point(event); });
  canvas.addEventListener("click", point);
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowRight: [0, 1], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowUp: [-1, 0] }[event.key];
    if (!step) return;
    event.preventDefault();
    const total = DATA.matrices[chosen].labels.length;
    const from = current || [0, 0];
    const within = (value) => Math.max(0, Math.min(total - 1, value));
    show(within(from[0] + (current ? step[0] : 0)), within(from[1] + (current ? step[1] : 0)));
  });
  choice.addEventListener("change", () => open(Number(choice.value)));
  redraws.push(draw);
  open(0);
}
