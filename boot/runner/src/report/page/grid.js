// The grids: pages on the left, RAM in the middle, devices on the right, and arrows between them.

const Colours = {};
const readColours = () => {
  const style = getComputedStyle(document.documentElement);
  for (const name of ["untouched", "zero", "writable", "readonly", "shared", "moving", "device", "mapped", "swapped", "exclusive",
    "noaccess", "poison", "kernel", "free", "inhand", "table", "pinned", "ink", "paper", "line", "hot", "faint", "stale"]) {
    Colours[name] = style.getPropertyValue("--" + name).trim();
  }
};

// Texts on these fills are dark in both themes.
const DARK_TEXT = new Set(["readonly", "moving", "exclusive", "inhand", "mapped", "swapped", "pinned"]);
const PLAIN = new Set(["untouched", "free", "zero", "kernel", ""]);

// So many items of a grid have room for their names.
const LABELLED = 64;

class Grid {
  // `labels` gives the two lines of text of an item.
  constructor(container, title, kind, items, labels) {
    Object.assign(this, { kind, items, labels });
    this.box = document.createElement("div");
    this.box.className = "group";
    this.heading = document.createElement("h3");
    this.heading.textContent = title;
    this.note = document.createElement("small");
    this.heading.append(" ", this.note);
    this.canvas = document.createElement("canvas");
    this.box.append(this.heading, this.canvas);
    container.append(this.box);
    this.canvas.addEventListener("click", (event) => {
      const item = this.hit(event);
      if (item >= 0) app.select(kind, item);
    });
    this.canvas.addEventListener("pointermove", (event) => {
      const item = this.hit(event);
      this.canvas.title = item < 0 ? "" : this.title(item);
    });
  }

  title(item) {
    const [, name, meaning] = Looks[this.kind][lookOf(this.kind, model.at(app.position), item)];
    return `${this.labels(model.at(app.position), item).join(" · ")}: ${name}. ${meaning}`;
  }

  // Chooses the size of the cells so that all fit into `height`.
  layout(height) {
    const width = this.box.clientWidth, n = this.items.length;
    const gapOf = (size) => (size > 8 ? 2 : 1);
    const fits = (size) => Math.ceil(n / Math.max(1, Math.floor(width / (size + gapOf(size))))) * (size + gapOf(size)) <= height;
    if (n <= LABELLED) {
      this.columns = Math.max(1, Math.min(n, Math.floor(width / 82)));
      this.cell = { w: Math.floor(width / this.columns) - 4, h: n <= 24 ? 44 : 38, gap: 4 };
      this.cell.w = Math.min(this.cell.w, 112);
    } else {
      let size = 26;
      while (size > 2 && !fits(size)) size--;
      const gap = gapOf(size);
      this.cell = { w: size, h: size, gap };
      this.columns = Math.max(1, Math.floor(width / (size + gap)));
    }
    this.rows = Math.ceil(n / this.columns);
    const ratio = devicePixelRatio || 1, { w, h, gap } = this.cell;
    const [pixelWidth, pixelHeight] = [this.columns * (w + gap), this.rows * (h + gap)];
    this.canvas.width = pixelWidth * ratio;
    this.canvas.height = pixelHeight * ratio;
    this.canvas.style.width = pixelWidth + "px";
    this.canvas.style.height = pixelHeight + "px";
  }

  place(slot) {
    const { w, h, gap } = this.cell;
    return [(slot % this.columns) * (w + gap) + gap / 2, Math.floor(slot / this.columns) * (h + gap) + gap / 2];
  }

  hit(event) {
    const box = this.canvas.getBoundingClientRect(), { w, h, gap } = this.cell;
    const column = Math.floor((event.clientX - box.left) / (w + gap)), row = Math.floor((event.clientY - box.top) / (h + gap));
    const slot = row * this.columns + column;
    return column < this.columns && slot < this.items.length ? this.items[slot] : -1;
  }

  // The middle of the upper edge of an item's cell, within `frame`'s box.
  top(item, frame) {
    const slot = this.items.indexOf(item);
    if (slot < 0) return null;
    const box = this.canvas.getBoundingClientRect(), [x, y] = this.place(slot), { w, h } = this.cell;
    return [box.left - frame.left + x + w / 2, box.top - frame.top + y + Math.min(3, h / 2)];
  }

  draw(state, marks) {
    const ratio = devicePixelRatio || 1, pen = this.canvas.getContext("2d"), { w, h } = this.cell;
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, this.canvas.width, this.canvas.height);
    const large = w >= 60;
    for (let slot = 0; slot < this.items.length; slot++) {
      const item = this.items[slot], [x, y] = this.place(slot);
      const name = Looks[this.kind][lookOf(this.kind, state, item)][0];
      if (name === "") {
        if (w > 8) { pen.strokeStyle = Colours.line; pen.setLineDash([2, 3]); pen.strokeRect(x + 0.5, y + 0.5, w - 1, h - 1); pen.setLineDash([]); }
      } else {
        pen.fillStyle = Colours[name];
        if (w > 8) { pen.beginPath(); pen.roundRect(x, y, w, h, Math.min(5, w / 5)); pen.fill(); } else pen.fillRect(x, y, w, h);
        if (w > 8) this.pattern(pen, name, x, y, w, h);
      }
      if (large) this.text(pen, state, item, name, x, y);
      else if (w >= 18 && this.kind === "page") {
        pen.fillStyle = PLAIN.has(name) || DARK_TEXT.has(name) ? (PLAIN.has(name) ? Colours.ink : "#111") : "#fff";
        pen.font = "9px system-ui, sans-serif";
        pen.textAlign = "center";
        pen.fillText(String(slot), x + w / 2, y + h / 2 + 3);
      }
      if (this.kind === "page" && state.stale.has(item)) this.stale(pen, x, y, w, h);
    }
    for (const [item, colour, width] of marks) {
      const slot = this.items.indexOf(item);
      if (slot < 0) continue;
      const [x, y] = this.place(slot);
      pen.strokeStyle = colour;
      pen.lineWidth = width;
      pen.strokeRect(x - 0.5, y - 0.5, w + 1, h + 1);
      pen.lineWidth = 1;
    }
  }

  // Patterns beside colours, for those who cannot tell the colours apart.
  pattern(pen, name, x, y, w, h) {
    pen.save();
    pen.beginPath();
    pen.roundRect(x, y, w, h, Math.min(5, w / 5));
    pen.clip();
    if (name === "moving") {
      pen.strokeStyle = "rgba(0,0,0,.28)";
      pen.lineWidth = 3;
      for (let offset = -h; offset < w; offset += 10) {
        pen.beginPath(); pen.moveTo(x + offset, y + h); pen.lineTo(x + offset + h, y); pen.stroke();
      }
    } else if (name === "device" || name === "mapped") {
      pen.fillStyle = "rgba(0,0,0,.25)";
      pen.fillRect(x + w - Math.max(3, w * 0.07), y, Math.max(3, w * 0.07), h);
    } else if (name === "shared") {
      pen.fillStyle = "rgba(255,255,255,.35)";
      pen.fillRect(x, y + h - Math.max(3, h * 0.1), w, Math.max(3, h * 0.1));
    } else if (name === "pinned") {
      pen.strokeStyle = "#111"; pen.lineWidth = 4;
      pen.strokeRect(x, y, w, h);
    } else if (PLAIN.has(name)) {
      pen.strokeStyle = Colours.line;
      pen.beginPath(); pen.roundRect(x + 0.5, y + 0.5, w - 1, h - 1, Math.min(5, w / 5)); pen.stroke();
    }
    pen.restore();
  }

  stale(pen, x, y, w, h) {
    const size = Math.max(3, Math.min(16, w / 4));
    pen.fillStyle = Colours.stale;
    pen.beginPath(); pen.moveTo(x + w, y); pen.lineTo(x + w - size, y); pen.lineTo(x + w, y + size); pen.fill();
  }

  text(pen, state, item, name, x, y) {
    const { w, h } = this.cell, [first, second] = this.labels(state, item);
    pen.fillStyle = PLAIN.has(name) ? Colours.ink : DARK_TEXT.has(name) ? "#111" : "#fff";
    if (name === "" || name === "free") pen.fillStyle = Colours.faint;
    pen.textAlign = "left";
    pen.font = `600 ${h > 40 ? 13 : 12}px system-ui, sans-serif`;
    pen.fillText(first, x + 7, y + h / 2 - 3, w - 12);
    pen.font = "11px system-ui, sans-serif";
    pen.fillText(second, x + 7, y + h / 2 + 13, w - 12);
  }
}

const grids = (() => {
  const all = [];
  const container = (id) => document.querySelector(`#${id} .groups`);
  const numbered = (list, test) => list.map((_, i) => i).filter((i) => test(list[i]));
  const pageLabels = (state, cell) => {
    const { space, page } = index.cells[cell];
    const frame = frameOfEntry(state.lo[cell], state.hi[cell]), pinned = frame && state.pins[index.frameAt(...frame)];
    const what = Looks.page[state.page(cell)][1] + (pinned ? ", pinned" : "");
    return [pageText(space, page), state.stale.has(cell) ? what + ", stale TLB" : what];
  };
  const frameLabels = (state, frame) => {
    const look = state.frame(frame), name = "0x" + hex(index.frames[frame].number);
    if (look === Frame.Table) return [name, `level-${state.table[frame]} table`];
    if ([Frame.Page, Frame.Shared, Frame.Moving, Frame.Pinned].includes(look)) {
      const pages = state.pagesOf(frame).map((cell) => pageText(index.cells[cell].space, index.cells[cell].page));
      const what = pages.length > 1 ? `${pages[0]} ×${pages.length}` : pages[0] ?? "";
      return [name, look === Frame.Pinned ? what + ", pinned" : what];
    }
    return [name, Looks.frame[look][1]];
  };
  for (const space of new Set(index.cells.map((cell) => cell.space))) {
    all.push(new Grid(container("pages"), `Space ${space}`, "page", numbered(index.cells, (cell) => cell.space === space), pageLabels));
    all[all.length - 1].space = space;
  }
  const frames = (id, title, kind) => {
    const items = numbered(index.frames, (frame) => frame.kind === kind);
    if (items.length) all.push(new Grid(container(id), title, "frame", items, frameLabels));
  };
  frames("ram", "RAM", 0);
  for (const kind of new Set(index.frames.map((frame) => frame.kind))) if (kind > 0) frames("device", `Device ${kind - 1}`, kind);
  if (!document.querySelector("#device .group")) document.getElementById("device").hidden = true;

  // Few items: the board is as high as they need, and the inspector gets the rest.
  const isSmall = all.every((grid) => grid.items.length <= LABELLED);
  document.querySelector("main").classList.toggle("small", isSmall);

  const layout = () => {
    for (const world of ["pages", "ram", "device"]) {
      const mine = all.filter((grid) => grid.box.closest(".world").id === world);
      const total = mine.reduce((sum, grid) => sum + grid.items.length, 0);
      const room = document.getElementById("board").clientHeight - 72 - mine.length * 38;
      for (const grid of mine) grid.layout(Math.max(60, room * grid.items.length / total));
    }
  };
  const of = (kind, item) => all.find((grid) => grid.kind === kind && grid.items.includes(item));

  const draw = (state, cell, frame, touched) => {
    const marks = { page: [], frame: [] };
    for (const other of touched) marks.frame.push([other, Colours.hot, 2]);
    if (cell >= 0) marks.page.push([cell, Colours.hot, 3]);
    if (frame >= 0) marks.frame.push([frame, Colours.hot, 3]);
    for (const grid of all) {
      if (grid.space !== undefined) {
        const alive = state.spaces.has(grid.space);
        grid.box.classList.toggle("gone", !alive);
        const cpus = [...state.entered].filter(([, space]) => space === grid.space).map(([cpu]) => `CPU ${cpu}`);
        grid.note.textContent = !alive ? "not there" : [cpus.length ? `in use by ${cpus.join(", ")}` : "not in use", countsText(state, grid.space)].filter(Boolean).join(" · ");
      }
      grid.draw(state, marks[grid.kind]);
    }
    arrows(state, cell, frame);
  };

  // What a space counts: [RAM, zero, device, swap].
  const countsText = (state, space) => {
    const names = ["in RAM", "zero page", "on device", "swapped"];
    return (state.charged.get(space) ?? []).map((count, kind) => (count ? `${grouped(count)} ${names[kind]}` : "")).filter(Boolean).join(", ");
  };

  const arrow = (from, to, name) => {
    // An arc above the cells: it leaves and arrives from above, so that it hides few labels.
    const rise = Math.min(from[1], to[1]) - 14, [x1, y1] = from, [x2, y2] = to;
    const path = `M${x1},${y1} C${x1 + (x2 - x1) * 0.15},${rise} ${x2 - (x2 - x1) * 0.08},${rise} ${x2},${y2}`;
    return `<path class="halo" d="${path}"/><path class="${name}" d="${path}" marker-end="url(#tip-${name})"/>`;
  };

  const arrows = (state, cell, frame) => {
    const svg = document.getElementById("arrows"), box = svg.getBoundingClientRect();
    const parts = [];
    const join = (kindA, a, kindB, b, name) => {
      const [gridA, gridB] = [of(kindA, a), of(kindB, b)];
      if (!gridA || !gridB) return;
      const from = gridA.top(a, box), to = gridB.top(b, box);
      if (from && to) parts.push(arrow(from, to, name));
    };
    const cells = cell >= 0 ? [cell] : frame >= 0 ? state.pagesOf(frame).slice(0, 8) : [];
    for (const one of cells) {
      const named = frameOfEntry(state.lo[one], state.hi[one]);
      const target = named ? index.frameAt(...named) : -1;
      if (target >= 0) join("page", one, "frame", target, kindOfEntry(state.lo[one], state.hi[one]) === EntryKind.Migrating ? "moves" : "names");
    }
    const i = state.position - 1;
    if (i >= 0 && data.kind[i] === Kind.Copied) {
      join("frame", index.frameAt(data.a[i], data.b[i]), "frame", index.frameAt(data.c[i], data.d[i]), "copies");
    }
    const tips = ["names", "moves", "copies"].map((name) => `<marker id="tip-${name}" class="${name}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto"><path d="M0,0 L8,4 L0,8 z"/></marker>`);
    svg.innerHTML = `<defs>${tips.join("")}</defs>${parts.join("")}`;
  };
  return { all, layout, draw };
})();
