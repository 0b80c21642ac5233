// The page as a whole: where we are, what is chosen, keys and buttons.

const app = {
  position: 0,
  chosen: null,
  followed: null,
  filters: new Set(GROUPS.filter((group) => !Group[group].off)),
  timer: null,
  tab: "story",

  go(position) {
    this.position = Math.max(0, Math.min(data.length, position));
    if (!this.queued) {
      this.queued = true;
      requestAnimationFrame(() => { this.queued = false; this.draw(); });
    }
  },

  // The next or the previous event that the filters let through.
  move(direction) {
    let position = this.position + direction;
    while (position > 0 && position < data.length && !this.filters.has(groupOf(position - 1))) position += direction;
    this.go(position);
  },

  // The next or the previous step of the story.
  story(direction) {
    const marks = [0, ...steps.map((step) => step.at + 1), data.length];
    const next = direction > 0 ? marks.find((mark) => mark > this.position) : marks.findLast((mark) => mark < this.position);
    this.go(next ?? (direction > 0 ? data.length : 0));
  },

  select(kind, item) { this.chosen = { kind, item }; this.draw(); },
  follow() { this.chosen = null; this.draw(); },

  play() {
    if (this.timer) return this.pause();
    if (this.position >= data.length) this.go(0);
    document.getElementById("play").textContent = "❚❚ Pause";
    let last = performance.now(), due = 0;
    const tick = (time) => {
      due += ((time - last) / 1000) * Number(document.getElementById("speed").value);
      last = time;
      while (due >= 1 && this.position < data.length) {
        const before = this.position;
        this.move(1);
        due -= 1;
        if (this.position === before) break;
      }
      if (this.position >= data.length) return this.pause();
      this.timer = requestAnimationFrame(tick);
    };
    this.timer = requestAnimationFrame(tick);
  },

  pause() {
    cancelAnimationFrame(this.timer);
    this.timer = null;
    document.getElementById("play").textContent = "▶ Play";
  },

  // What the event at hand is about, or was last about.
  inHand(state) {
    const i = this.position - 1;
    if (i < 0) return null;
    const cell = cellOf(i);
    if (cell >= 0) return { kind: "page", item: cell };
    const frame = framesOf(i).findLast((one) => one >= 0);
    if (frame === undefined) return null;
    const pages = state.pagesOf(frame);
    return pages.length === 1 ? { kind: "page", item: pages[0] } : { kind: "frame", item: frame };
  },

  draw() {
    const state = model.at(this.position), i = this.position - 1;
    if (!this.chosen) this.followed = this.inHand(state) ?? this.followed;
    const chosen = this.chosen ?? this.followed;
    const cell = chosen?.kind === "page" ? chosen.item : -1, frame = chosen?.kind === "frame" ? chosen.item : -1;
    grids.draw(state, cell, frame, i >= 0 ? framesOf(i).filter((one) => one >= 0) : []);
    timeline.draw(this.position);
    inspector.draw(state, chosen, !this.chosen);
    document.getElementById("clock").textContent = `event ${grouped(this.position)} of ${grouped(data.length)}` + (i >= 0 ? ` · ${(microseconds(i) / 1000).toFixed(3)} ms · CPU ${data.cpu[i]}` : "");
    const kind = document.getElementById("kind");
    kind.textContent = i >= 0 ? Group[groupOf(i)].name : "";
    kind.style.setProperty("--tag", i >= 0 ? timeline.colours[groupOf(i)] : "transparent");
    document.getElementById("words").textContent = i >= 0 ? words(i) : "Before anything has happened. Press the right arrow, or drag the timeline.";
    this.drawStory();
    if (this.tab === "events") this.drawEvents();
    if (this.tab === "costs") costsPanel.draw(this.position);
  },

  drawStory() {
    const now = steps.findLastIndex((step) => step.at < this.position);
    this.storySteps.forEach((item, i) => {
      item.classList.toggle("here", i === now);
      item.classList.toggle("past", i < now);
    });
    if (now !== this.storyNow && now >= 0) {
      const item = this.storySteps[now], panel = document.getElementById("story");
      panel.scrollTop = Math.max(0, item.offsetTop - panel.offsetTop - panel.clientHeight / 2 + item.clientHeight / 2);
    }
    this.storyNow = now;
  },

  // Some events before and after this one, those that the filters let through.
  drawEvents() {
    const panel = document.getElementById("events"), lines = [];
    for (let i = this.position - 1, count = 0; i >= 0 && count < 14; i--) if (this.filters.has(groupOf(i))) { lines.unshift(i); count++; }
    for (let i = this.position, count = 0; i < data.length && count < 14; i++) if (this.filters.has(groupOf(i))) { lines.push(i); count++; }
    panel.replaceChildren(...lines.map((i) => {
      const line = jump(i, "");
      const tag = element("span", "tag", Group[groupOf(i)].name);
      tag.style.setProperty("--tag", timeline.colours[groupOf(i)]);
      line.append(element("span", "number", grouped(i + 1)), tag, words(i));
      line.classList.toggle("here", i === this.position - 1);
      line.classList.toggle("future", i >= this.position);
      return line;
    }));
    panel.querySelector(".here")?.scrollIntoView({ block: "center" });
  },

  show(tab) {
    this.tab = tab;
    for (const button of document.querySelectorAll("#tabs button")) button.setAttribute("aria-selected", String(button.dataset.tab === tab));
    for (const id of ["story", "events", "costs"]) document.getElementById(id).hidden = id !== tab;
    this.draw();
  },

  buildStory() {
    const panel = document.getElementById("story");
    panel.append(element("p", "look-at", element("b", "", "What to look at. "), head.look));
    const list = element("ol");
    list.start = 0;
    this.storySteps = steps.map(({ at, number }) => {
      const [title, text] = head.steps[number] ?? [`Step ${number}`, ""];
      const item = element("li", "", jump(at, `${number}  ${title}`), element("p", "", text));
      list.append(item);
      return item;
    });
    // A demo of many rounds repeats its steps; the text is said once.
    const seen = new Set();
    steps.forEach(({ number }, i) => {
      if (seen.has(number)) this.storySteps[i].querySelector("p").remove();
      seen.add(number);
    });
    panel.append(list);
  },

  buildLegend() {
    const legend = document.getElementById("legend");
    const used = { page: new Set(), frame: new Set() };
    // What this run shows, found at some moments of it.
    const moments = Math.min(data.length, 400);
    for (let moment = 0; moment <= moments; moment++) {
      const state = model.at(Math.round((moment / Math.max(1, moments)) * data.length));
      const every = Math.max(1, Math.floor(index.cells.length / 256));
      for (let cell = 0; cell < index.cells.length; cell += every) used.page.add(state.page(cell));
      const everyFrame = Math.max(1, Math.floor(index.frames.length / 256));
      for (let frame = 0; frame < index.frames.length; frame += everyFrame) used.frame.add(lookOf("frame", state, frame));
    }
    const entry = (kind, look) => {
      const [name, text, meaning] = Looks[kind][look];
      const item = element("span", "key", element("span", `swatch ${name || "none"}`), ` ${text}`);
      item.title = meaning;
      return item;
    };
    legend.append(element("b", "", "Pages "), ...[...used.page].sort((x, y) => x - y).map((look) => entry("page", look)));
    const stale = element("span", "key", element("span", "swatch stale"), " stale: a TLB may hold an older translation");
    legend.append(stale, element("b", "", " Frames "), ...[...used.frame].sort((x, y) => x - y).map((look) => entry("frame", look)));
    legend.append(element("b", "", " Arrows "), element("span", "key", element("span", "swatch names"), " the entry names this frame"),
      element("span", "key", element("span", "swatch moves"), " likewise, while the page is on its way"), element("span", "key", element("span", "swatch copies"), " bytes are copied"));
  },

  buildControls() {
    const on = (id, action) => document.getElementById(id).addEventListener("click", action);
    on("first", () => this.go(0));
    on("back", () => this.move(-1));
    on("play", () => this.play());
    on("next", () => this.move(1));
    on("last", () => this.go(data.length));
    on("theme", () => {
      const dark = document.documentElement.dataset.theme ? document.documentElement.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
      document.documentElement.dataset.theme = dark ? "light" : "dark";
      this.restyle();
    });
    const speed = document.getElementById("speed");
    for (const [value, text] of [[2, "2 events/s"], [10, "10 events/s"], [60, "60 events/s"], [600, "600 events/s"], [6000, "6,000 events/s"]]) {
      const option = element("option", "", text);
      option.value = String(value);
      speed.append(option);
    }
    speed.value = data.length > 20000 ? "6000" : data.length > 2000 ? "600" : "10";
    const filters = document.getElementById("filters");
    for (const group of GROUPS) {
      const box = element("input");
      box.type = "checkbox";
      box.checked = this.filters.has(group);
      box.addEventListener("change", () => {
        if (box.checked) this.filters.add(group); else this.filters.delete(group);
        timeline.repaint();
        this.draw();
      });
      const label = element("label", "filter", box, Group[group].name);
      label.title = Group[group].title;
      label.style.setProperty("--tag", timeline.colours[group]);
      filters.append(label);
    }
    for (const button of document.querySelectorAll("#tabs button")) button.addEventListener("click", () => this.show(button.dataset.tab));
    document.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || ["SELECT", "INPUT"].includes(event.target.tagName)) return;
      const keys = {
        ArrowRight: () => this.move(1), ArrowLeft: () => this.move(-1), ArrowDown: () => this.story(1), ArrowUp: () => this.story(-1),
        Home: () => this.go(0), End: () => this.go(data.length), " ": () => this.play(), Escape: () => this.follow(),
        PageDown: () => this.go(this.position + 100), PageUp: () => this.go(this.position - 100),
      };
      if (!keys[event.key]) return;
      event.preventDefault();
      if (event.key !== " ") this.pause();
      keys[event.key]();
    });
    addEventListener("resize", () => this.restyle());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.restyle());
  },

  restyle() {
    readColours();
    grids.layout();
    timeline.repaint();
    this.draw();
  },
};

document.getElementById("title").textContent = head.title;
document.getElementById("about").textContent = head.about;
app.buildStory();
app.buildControls();
costsPanel.build();
app.buildLegend();
// The end of the address may name an event, so that a moment can be pointed to: report.html#120.
app.position = Math.max(0, Math.min(data.length, Number.parseInt(location.hash.slice(1), 10) || 0));
app.restyle();
app.show("story");

// For tests: what is shown, as numbers and text.
window.ferry = {
  length: data.length,
  position: () => app.position,
  go: (position) => { app.position = position; app.draw(); },
  select: (space, page) => app.select("page", index.cellAt(space, page)),
  show: (tab) => app.show(tab),
  dump: () => model.at(app.position).dump(),
  steps: () => steps.map((step) => step.at),
};
