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

// Between cells with names: arrows run there, so that they hide none.
const LABELLED_GAP = 6;

// How much of the window a board with few items may take: as in the style.
const SMALL_BOARD = 0.41;

// The inspector's least height and the space between the parts, as in the style.
const INSPECTOR_AND_GAPS = 240;

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
    if (this.items.length <= LABELLED) this.layoutLabelled(height); else this.layoutSmall(height);
    this.rows = Math.ceil(this.items.length / this.columns);
    const ratio = devicePixelRatio || 1, { w, h, gap } = this.cell;
    const [pixelWidth, pixelHeight] = [this.columns * (w + gap), this.rows * (h + gap)];
    this.canvas.width = pixelWidth * ratio;
    this.canvas.height = pixelHeight * ratio;
    this.canvas.style.width = pixelWidth + "px";
    this.canvas.style.height = pixelHeight + "px";
  }

  // The largest cells with names of which all rows are seen; the smallest where none do.
  layoutLabelled(height) {
    const width = this.box.clientWidth, n = this.items.length, gap = LABELLED_GAP;
    for (const [least, h] of [[76, 44], [76, 34], [60, 34], [60, 30]]) {
      this.columns = Math.max(1, Math.min(n, Math.floor(width / (least + gap))));
      this.cell = { w: Math.min(112, Math.floor(width / this.columns) - gap), h, gap };
      if (Math.ceil(n / this.columns) * (h + gap) <= height) return;
    }
  }

  layoutSmall(height) {
    const width = this.box.clientWidth, n = this.items.length;
    // Gaps would leave the smallest cells no colour.
    const gapOf = (size) => (size > 8 ? 2 : size > 3 ? 1 : 0);
    const fits = (size) => Math.ceil(n / Math.max(1, Math.floor(width / (size + gapOf(size))))) * (size + gapOf(size)) <= height;
    let size = 26;
    while (size > 2 && !fits(size)) size--;
    const gap = gapOf(size);
    this.cell = { w: size, h: size, gap };
    this.columns = Math.max(1, Math.floor(width / (size + gap)));
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

  get isLabelled() { return this.items.length <= LABELLED; }

  // An item's cell and the upper edge of its grid, within `frame`'s box.
  cellWithin(item, frame) {
    const box = this.canvas.getBoundingClientRect(), [x, y] = this.place(this.items.indexOf(item));
    const [left, top] = [box.left - frame.left, box.top - frame.top];
    return { x: left + x, y: top + y, w: this.cell.w, h: this.cell.h, top };
  }

  draw(state, marks) {
    const ratio = devicePixelRatio || 1, pen = this.canvas.getContext("2d"), { w, h } = this.cell;
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, this.canvas.width, this.canvas.height);
    const large = this.isLabelled;
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
    } else if (name === "table") {
      pen.fillStyle = "rgba(255,255,255,.4)";
      for (let line = 0; line < 3; line++) pen.fillRect(x + w - 4 - 4 * line, y, 1.5, h);
    } else if (name === "swapped") {
      pen.fillStyle = "rgba(0,0,0,.3)";
      pen.fillRect(x, y, w, Math.max(3, h * 0.1));
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
    pen.fillText(first, x + 9, y + h / 2 - (h > 40 ? 3 : 2), w - 12);
    pen.font = "11px system-ui, sans-serif";
    pen.fillText(second, x + 9, y + h / 2 + (h > 40 ? 13 : 11), w - 12);
  }
}

const grids = (() => {
  const all = [];
  const container = (id) => document.querySelector(`#${id} .groups`);
  const numbered = (list, test) => list.map((_, i) => i).filter((i) => test(list[i]));
  const pageLabels = (state, cell) => {
    const { space, page } = index.cells[cell];
    const frame = frameOfEntry(state.lo[cell], state.hi[cell]), pinned = frame && state.pins[index.frameAt(...frame)];
    const what = pinned ? "pinned" : Looks.page[state.page(cell)][1];
    return [pageText(space, page), state.stale.has(cell) ? "stale in TLB" : what];
  };
  const frameLabels = (state, frame) => {
    const look = state.frame(frame), name = "0x" + hex(index.frames[frame].number);
    if (look === Frame.Table) return [name, `L${state.table[frame]} table`];
    if ([Frame.Page, Frame.Shared, Frame.Moving, Frame.Pinned].includes(look)) {
      const pages = state.pagesOf(frame).map((cell) => pageText(index.cells[cell].space, index.cells[cell].page));
      const what = pages.length > 1 ? `${pages[0]} ×${pages.length}` : pages[0] ?? "";
      return [look === Frame.Pinned ? name + " pin" : name, what];
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
      const board = document.getElementById("board");
      // A board with few items grows with them, up to the height that the style, legend and inspector leave it.
      const left = document.querySelector("main").clientHeight - document.getElementById("legend").offsetHeight - INSPECTOR_AND_GAPS;
      const height = isSmall ? Math.min(innerHeight * SMALL_BOARD, left) : board.clientHeight;
      const room = height - 56 - mine.length * 40;
      for (const grid of mine) grid.layout(Math.max(60, room * grid.items.length / total));
    }
  };
  const of = (kind, item) => all.find((grid) => grid.kind === kind && grid.items.includes(item));

  const draw = (state, cell, frame, touched) => {
    const marks = { page: [], frame: [] };
    for (const other of touched) marks.frame.push([other, Colours.hot, 2]);
    if (cell >= 0) marks.page.push([cell, Colours.hot, 3]);
    if (frame >= 0) marks.frame.push([frame, Colours.hot, 3]);
    const named = cell >= 0 ? frameOfEntry(state.lo[cell], state.hi[cell]) : null;
    if (named) marks.frame.push([index.frameAt(...named), Colours.hot, 2]);
    for (const grid of all) {
      if (grid.space !== undefined) {
        const alive = state.spaces.has(grid.space);
        grid.box.classList.toggle("gone", !alive);
        const cpus = [...state.entered].filter(([, space]) => space === grid.space).map(([cpu]) => `CPU ${cpu}`);
        grid.note.textContent = !alive ? "not there" : [cpus.length ? `on ${cpus.join(", ")}` : "on no CPU", countsText(state, grid.space)].filter(Boolean).join(" · ");
        grid.note.title = "Which CPUs use this space, and how many of its pages the kernel counts where";
      }
      grid.draw(state, marks[grid.kind]);
    }
    arrows(state, cell, frame);
  };

  // What a space counts: [RAM, zero, device, swap].
  const countsText = (state, space) => {
    const names = ["RAM", "zero", "device", "swap"];
    return (state.charged.get(space) ?? []).map((count, kind) => (count ? `${grouped(count)} ${names[kind]}` : "")).filter(Boolean).join(", ");
  };

  // Between small cells, which have no names that it could hide: an arc.
  const arc = (from, to) => {
    const [x1, x2] = [from.x + from.w / 2, to.x + to.w / 2], rise = Math.min(from.y, to.y) - 10;
    return `M${x1},${from.y} C${x1 + (x2 - x1) * 0.15},${rise} ${x2 - (x2 - x1) * 0.08},${rise} ${x2},${to.y}`;
  };

  // Between cells with names: up beside the cell, along above its grid, down beside the other cell, and into it from the side.
  const route = (from, to, side) => {
    const offset = side * LABELLED_GAP * 0.25, lane = side < 0 ? 4 : 8;
    const leave = from.x + from.w + LABELLED_GAP / 2 + offset, arrive = to.x - LABELLED_GAP / 2 + offset;
    const [up, down] = [from.top - lane, to.top - lane], [y1, y2] = [from.y + from.h / 2, to.y + to.h / 2];
    const points = [[from.x + from.w - 5, y1], [leave, y1]];
    // Side by side, both cells have the same gap between columns.
    if (Math.abs(leave - arrive) > 1) {
      points.push([leave, up]);
      if (Math.abs(up - down) > 1) points.push([to.channel + offset, up], [to.channel + offset, down]);
      points.push([arrive, down]);
    }
    points.push([arrive, y2], [to.x + 6, y2]);
    return "M" + points.map((point) => point.join(",")).join(" L");
  };

  const arrow = (path, name) =>
    `<path class="halo" d="${path}"/><path class="${name}" d="${path}" marker-end="url(#tip-${name})"/>` + (name === "copies" ? `<path class="middle" d="${path}"/>` : "");

  const arrows = (state, cell, frame) => {
    const svg = document.getElementById("arrows"), box = svg.getBoundingClientRect();
    const parts = [];
    const join = (kindA, a, kindB, b, name) => {
      const [gridA, gridB] = [of(kindA, a), of(kindB, b)];
      if (!gridA || !gridB) return;
      const from = gridA.cellWithin(a, box), to = gridB.cellWithin(b, box);
      const isRouted = gridA.isLabelled && gridB.isLabelled;
      // Beside the other grid, where its world begins.
      to.channel = gridB.canvas.getBoundingClientRect().left - box.left - 12;
      parts.push(arrow(isRouted ? route(from, to, name === "copies" ? 1 : -1) : arc(from, to), name));
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
    const tips = ["names", "moves", "copies"].map((name) => `<marker id="tip-${name}" class="${name}" viewBox="0 0 8 8" refX="7" refY="4" markerUnits="userSpaceOnUse" markerWidth="11" markerHeight="11" orient="auto"><path d="M0,0 L8,4 L0,8 z"/></marker>`);
    svg.innerHTML = `<defs>${tips.join("")}</defs>${parts.join("")}`;
  };
  return { all, layout, draw };
})();
