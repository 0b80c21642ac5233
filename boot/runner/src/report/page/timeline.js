// The timeline: steps of the story, how much happens of what, migrations, and where we are.

// Where each step of the story begins, and the migrations with their phases.
const steps = [];
const migrations = (() => {
  const list = [], open = new Map(), evictions = new Map();
  for (let i = 0; i < data.length; i++) {
    const cpu = data.cpu[i];
    switch (data.kind[i]) {
      // Two steps of one number that meet are one.
      case Kind.Step: if (steps[steps.length - 1]?.number !== data.a[i]) steps.push({ at: i, number: data.a[i] }); break;
      case Kind.Migration: {
        const stack = open.get(cpu) ?? [];
        open.set(cpu, stack);
        // A way home has no phase that checks for other users, but it, too, begins by taking the entries.
        if (data.e[i] === 0) stack.push({ begin: i, end: -1, device: data.d[i] - 1, pages: data.c[i], space: spaceOf(i), first: pageOf(i), phases: [], moved: 0, stays: new Map(), flushes: 0, cpu });
        const migration = stack[stack.length - 1];
        if (!migration) break;
        const before = migration.phases[migration.phases.length - 1];
        if (before) before.end = i;
        if (data.e[i] >= 4) {
          migration.end = i;
          migration.moved = data.f[i];
          migration.gaveBack = data.e[i] === 4;
          list.push(stack.pop());
        } else migration.phases.push({ phase: data.e[i], begin: i, end: i });
        break;
      }
      case Kind.Stays: {
        const stack = open.get(cpu), migration = stack && stack[stack.length - 1];
        const name = head.names[data.d[i]];
        if (migration) migration.stays.set(name, (migration.stays.get(name) ?? 0) + 1);
        break;
      }
      case Kind.Flush: {
        const stack = open.get(cpu), migration = stack && stack[stack.length - 1];
        if (migration) migration.flushes++;
        break;
      }
      case Kind.EvictionBegins: evictions.set(data.a[i], i); break;
      case Kind.EvictionEnds:
        list.push({ begin: evictions.get(data.a[i]), end: i, eviction: data.a[i], pages: data.b[i] + data.c[i], moved: data.b[i], phases: [], stays: new Map(), flushes: 0, cpu });
        break;
    }
  }
  return list.sort((x, y) => x.begin - y.begin);
})();

// What faults cost, in microseconds, by outcome.
const faultCosts = (() => {
  const costs = new Map();
  for (const [i, took] of faultTimes) {
    const name = head.names[data.d[i]], list = costs.get(name) ?? [];
    list.push(took);
    costs.set(name, list);
  }
  return costs;
})();

const timeline = (() => {
  const canvas = document.getElementById("timeline");
  const STEP_HEIGHT = 20, MIGRATION_HEIGHT = 14, HEIGHT = 96, COLOURS = {
    program: "#999999", fault: "#D55E00", entry: "#0072B2", flush: "#CC79A7", migration: "#E69F00", copy: "#009E73", frame: "#56B4E9", space: "#7a6fb0", count: "#b0a08a",
  };
  let picture = null, width = 0;
  const x = (position) => (position / Math.max(1, data.length)) * width;

  // Everything but the playhead, drawn once for each size.
  const paint = () => {
    const ratio = devicePixelRatio || 1;
    width = canvas.clientWidth;
    canvas.width = width * ratio;
    canvas.height = HEIGHT * ratio;
    picture = document.createElement("canvas");
    picture.width = canvas.width;
    picture.height = canvas.height;
    const pen = picture.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.font = "11px system-ui, sans-serif";
    steps.forEach(({ at, number }, i) => {
      const from = x(at), to = x(steps[i + 1]?.at ?? data.length);
      pen.fillStyle = i % 2 ? Colours.line : Colours.free;
      pen.fillRect(from, 0, to - from, STEP_HEIGHT);
      pen.fillStyle = Colours.ink;
      const text = head.steps[number]?.[0] ?? "";
      const full = `${number} ${text}`;
      if (to - from > 14) {
        pen.save(); pen.beginPath(); pen.rect(from, 0, to - from - 3, STEP_HEIGHT); pen.clip();
        pen.fillText(pen.measureText(full).width > to - from - 8 && to - from < 70 ? String(number) : full, from + 5, 14); pen.restore();
      }
      pen.fillStyle = Colours.line;
      pen.fillRect(from, 0, 1, HEIGHT);
    });
    const columns = Math.max(1, Math.floor(width / 3)), counts = GROUPS.map(() => new Uint32Array(columns));
    let most = 1;
    for (let i = 0; i < data.length; i++) {
      const group = groupOf(i);
      if (!app.filters.has(group)) continue;
      counts[GROUPS.indexOf(group)][Math.min(columns - 1, Math.floor((i / data.length) * columns))]++;
    }
    for (let column = 0; column < columns; column++) most = Math.max(most, counts.reduce((sum, count) => sum + count[column], 0));
    const room = HEIGHT - STEP_HEIGHT - MIGRATION_HEIGHT - 8, bottom = HEIGHT - MIGRATION_HEIGHT - 4;
    for (let column = 0; column < columns; column++) {
      let y = bottom;
      GROUPS.forEach((group, g) => {
        const height = (counts[g][column] / most) * room;
        pen.fillStyle = COLOURS[group];
        pen.fillRect((column * width) / columns, y - height, Math.max(1, width / columns - (width / columns > 4 ? 1 : 0)), height);
        y -= height;
      });
    }
    for (const migration of migrations) {
      const from = x(migration.begin), to = Math.max(from + 2, x(migration.end));
      pen.fillStyle = migration.eviction !== undefined ? Colours.pinned : migration.device >= 0 ? Colours.device : Colours.writable;
      pen.fillRect(from, HEIGHT - MIGRATION_HEIGHT, to - from, MIGRATION_HEIGHT - 4);
      if (to - from > 44) {
        pen.fillStyle = migration.eviction !== undefined ? "#111" : "#fff";
        pen.font = "9px system-ui, sans-serif";
        pen.fillText(migration.eviction !== undefined ? "eviction" : migration.device >= 0 ? "to device" : "home", from + 4, HEIGHT - MIGRATION_HEIGHT + 8);
      }
    }
  };

  const draw = (position) => {
    if (!picture || canvas.clientWidth !== width) paint();
    const ratio = devicePixelRatio || 1, pen = canvas.getContext("2d");
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.clearRect(0, 0, canvas.width, canvas.height);
    pen.drawImage(picture, 0, 0);
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    const at = x(position);
    pen.fillStyle = Colours.paper;
    pen.globalAlpha = 0.45;
    pen.fillRect(at, STEP_HEIGHT, width - at, HEIGHT);
    pen.globalAlpha = 1;
    pen.fillStyle = Colours.hot;
    pen.fillRect(Math.min(at, width - 2) - 1, 0, 2, HEIGHT);
    pen.beginPath(); pen.moveTo(at - 6, 0); pen.lineTo(at + 6, 0); pen.lineTo(at, 9); pen.fill();
    canvas.setAttribute("aria-valuemin", "0");
    canvas.setAttribute("aria-valuemax", String(data.length));
    canvas.setAttribute("aria-valuenow", String(position));
  };

  const positionAt = (event) => {
    const box = canvas.getBoundingClientRect();
    return Math.max(0, Math.min(data.length, Math.round(((event.clientX - box.left) / box.width) * data.length)));
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    app.pause();
    app.go(positionAt(event));
  });
  canvas.addEventListener("pointermove", (event) => {
    if (event.buttons & 1) app.go(positionAt(event));
    canvas.title = `event ${grouped(positionAt(event))}`;
  });
  return { draw, repaint: () => { picture = null; }, colours: COLOURS };
})();
