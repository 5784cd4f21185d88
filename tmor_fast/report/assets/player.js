// The skeletons: one clock for all clips, each repeating at its own length. Joints that were not observed, and bones
// that end in one, are not drawn.
const FOOT = 20;
function startPlayer() {
  const clips = DATA.clips;
  const button = document.getElementById("play");
  if (!clips.length || !button) return;
  const slider = document.getElementById("scrub");
  const turn = document.getElementById("turn");
  const time = document.getElementById("time");
  const speed = document.getElementById("speed");
  const canvases = clips.map((_, i) => document.getElementById("clip-" + i));
  const longest = Math.max(...clips.map((clip) => clip.seconds));
  let now = 0, playing = false, last = 0;
  slider.max = longest.toFixed(2);

  function draw() {
    canvases.forEach((canvas, i) => drawClip(canvas, clips[i]));
    slider.value = now;
    time.textContent = `${now.toFixed(2)} of ${longest.toFixed(2)} s`;
  }

  function drawClip(canvas, clip) {
    const width = canvas.parentElement.clientWidth;
    const height = Math.round(Math.min(width, 260)) + FOOT;
    if (canvas.clientWidth !== width || canvas.height < 2) sized(canvas, width, height);
    const dense = canvas.width / width;
    const context = canvas.getContext("2d");
    context.setTransform(dense, 0, 0, dense, 0, 0);
    context.clearRect(0, 0, width, height);
    const frame = Math.floor(now * clip.fps + 1e-6) % clip.frames;
    canvas.dataset.frame = frame;
    const angle = (Number(turn ? turn.value : 0) * Math.PI) / 180;
    const scale = Math.min(width, height - FOOT) / 1000;
    for (let person = 0; person < clip.persons; person++) {
      const first = (frame * clip.persons + person) * clip.joints * clip.channels;
      const place = [];
      for (let joint = 0; joint < clip.joints; joint++) {
        const at = first + joint * clip.channels;
        if (clip.values[at] < 0) { place.push(null); continue; }
        let x = clip.values[at] - 500;
        if (clip.channels === 3) x = x * Math.cos(angle) + (clip.values[at + 2] - 500) * Math.sin(angle);
        place.push([width / 2 + x * scale, (height - FOOT) / 2 + (clip.values[at + 1] - 500) * scale]);
      }
      drawBody(context, clip, place);
    }
    context.fillStyle = ink("--soft");
    context.font = "11px system-ui, sans-serif";
    context.fillText(`frame ${frame + 1} of ${clip.frames}`, 6, height - 6);
  }

  function drawBody(context, clip, place) {
    const tint = [ink("--left"), ink("--middle"), ink("--right-side")];
    context.lineWidth = 3;
    context.lineCap = "round";
    for (const [child, parent] of clip.bones) {
      if (!place[child] || !place[parent]) continue;
      context.strokeStyle = tint[clip.side[child] + 1];
      context.beginPath();
      context.moveTo(...place[child]);
      context.lineTo(...place[parent]);
      context.stroke();
    }
    place.forEach((at, joint) => {
      if (!at) return;
      context.fillStyle = tint[clip.side[joint] + 1];
      context.beginPath();
      context.arc(at[0], at[1], 2.6, 0, 2 * Math.PI);
      context.fill();
    });
  }

  function tick(stamp) {
    if (!playing) return;
    now = (now + (Math.min(stamp - last, 100) / 1000) * Number(speed.value)) % longest;
    last = stamp;
    draw();
    requestAnimationFrame(tick);
  }

  function play(start) {
    if (playing === start) return;
    playing = start;
    button.textContent = playing ? "Pause" : "Play";
    if (playing) { last = performance.now(); requestAnimationFrame(tick); }
  }

  button.addEventListener("click", () => { touched = true; play(!playing); });
  slider.addEventListener("input", () => { touched = true; play(false); now = Number(slider.value) % longest; draw(); });
  if (turn) turn.addEventListener("input", draw);
  for (const canvas of canvases) canvas.addEventListener("click", () => { touched = true; play(!playing); });
  // They start when first seen, unless the reader has asked for stillness, and rest while out of sight.
  let touched = STILL.matches;
  new IntersectionObserver((entries) => {
    const visible = entries.some((entry) => entry.isIntersecting);
    if (!visible) play(false);
    else if (!touched) play(true);
  }, { threshold: 0.05 }).observe(document.getElementById("clips"));
  redrawn(draw);
}

startMap();
startMatrix();
startPlayer();
document.documentElement.dataset.ready = "yes";
