// The chosen page or frame: where it is, its way through four tables with every bit, its history, what TLBs may hold.

const element = (name, className, ...children) => {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...children);
  return made;
};
const table = (className, heads, rows) => {
  const made = element("table", className);
  if (heads) made.append(element("thead", "", element("tr", "", ...heads.map((text) => element("th", "", text)))));
  made.append(element("tbody", "", ...rows.map((row) => element("tr", "", ...row.map((cell) => element("td", "", cell))))));
  return made;
};
const jump = (i, text) => {
  const button = element("button", "jump", text);
  button.type = "button";
  button.addEventListener("click", () => app.go(i + 1));
  return button;
};

const inspector = (() => {
  const panel = document.getElementById("inspector");
  const opened = new Set([1]);

  const walk = (state, { space, page }) => {
    const list = element("div", "walk");
    let ended = false;
    for (const level of [4, 3, 2, 1]) {
      const span = 512 ** (level - 1), first = Math.floor(page / span) * span;
      const slot = Math.floor(page / span) % 512;
      const cell = index.cellAt(space, page);
      const [lo, hi] = level === 1 ? [state.lo[cell], state.hi[cell]] : state.upper.get(`${space}/${level}/${first}`) ?? [0, 0];
      const details = element("details");
      details.open = opened.has(level);
      details.addEventListener("toggle", () => { if (details.open) opened.add(level); else opened.delete(level); });
      const what = ended ? "no table" : level > 1 ? (lo & 1 ? `table in RAM frame 0x${hex(field(lo, hi))}` : "empty: no table below") : entryWords(lo, hi);
      details.append(element("summary", "", element("b", "", `L${level}[${slot}]`), " ", element("code", "", ended ? "" : hex64(lo, hi)), " ", what));
      if (!ended) details.append(table("bits", ["bit", "value", "name", "meaning"], entryBits(lo, hi, level)));
      list.append(details);
      if (level > 1 && !(lo & 1)) ended = true;
    }
    list.append(element("p", "hint", "(*) CPUs set these bits by themselves; they are shown as of the last change of the entry."));
    return list;
  };

  const tlb = (state, cell) => {
    const box = element("div", "tlb");
    const { space } = index.cells[cell];
    const using = [...state.entered].filter(([, entered]) => entered === space).map(([cpu]) => cpu);
    const lo = state.lo[cell], hi = state.hi[cell];
    const older = state.stale.get(cell) ?? [];
    if (lo & 1 && using.length) box.append(element("p", "", `CPU ${using.join(", ")} may hold the translation that the entry gives.`));
    for (const stale of older) {
      box.append(element("p", "warn", `${cpusText(stale.cpus)} may still use an OLDER one: ${entryWords(stale.lo, stale.hi)}. A flush ends that.`));
    }
    if (!box.children.length) {
      box.append(element("p", "", using.length ? "Nothing: an entry that is not present is never cached." : "Nothing: no CPU is in this space."));
    }
    return box;
  };

  const history = (events) => {
    const box = element("div", "history");
    const past = events.filter((i) => i < app.position).length;
    const from = Math.max(0, past - 40), shown = events.slice(from, past + 20);
    if (from > 0) box.append(element("p", "hint", `${from} earlier`));
    for (const i of shown) {
      const line = jump(i, `${grouped(i + 1)}  ${words(i)}`);
      line.classList.toggle("future", i >= app.position);
      line.classList.toggle("here", i === app.position - 1);
      box.append(line);
    }
    if (past + 20 < events.length) box.append(element("p", "hint", `${events.length - past - 20} later`));
    if (!events.length) box.append(element("p", "hint", "Nothing ever happened to it."));
    return box;
  };

  // Scrolls a history so far that its last past event is seen.
  const showNow = (box) => {
    const list = box.querySelector(".history"), line = [...list.querySelectorAll(".jump:not(.future)")].pop();
    if (line) list.scrollTop = Math.max(0, line.offsetTop - list.offsetTop - list.clientHeight + line.clientHeight + Math.min(44, list.clientHeight / 3));
  };

  const part = (title, ...content) => element("section", "part", element("h3", "", title), ...content);

  const draw = (state, chosen, isFollowed) => {
    panel.replaceChildren();
    const heading = element("h2");
    const mode = element("button", "follow", isFollowed ? "follows the events" : "✕ follow the events again");
    mode.type = "button";
    mode.disabled = isFollowed;
    mode.addEventListener("click", () => app.follow());
    if (!chosen) {
      panel.append(element("p", "hint", "Click a page or a frame to see its entry, bit by bit, and its history."));
      return;
    }
    if (chosen.kind === "page") {
      const cell = index.cells[chosen.item], look = Looks.page[state.page(chosen.item)];
      const name = pageText(cell.space, cell.page);
      heading.append(name[0].toUpperCase() + name.slice(1), element("small", "", ` of space ${cell.space}, ${addressText(cell.page)}`));
      const named = frameOfEntry(state.lo[chosen.item], state.hi[chosen.item]);
      const pinned = named && state.pins[index.frameAt(...named)] ? [element("span", "look pinned", "pinned"), element("span", "meaning", "it stays: somebody uses the frame by its physical address")] : [element("span", "meaning", look[2])];
      panel.append(element("div", "chosen", heading, element("span", `look ${look[0]}`, look[1]), ...pinned, mode));
      const past = part("What TLBs may hold", tlb(state, chosen.item), element("h3", "", "History"), history(index.cellEvents[chosen.item]));
      past.classList.add("past");
      panel.append(element("div", "parts", part("The walk: from CR3 to the page, every bit", walk(state, cell)), past));
      showNow(past);
      return;
    }
    const frame = index.frames[chosen.item], look = Looks.frame[lookOf("frame", state, chosen.item)];
    heading.append(frame.kind === 0 ? "RAM frame 0x" + hex(frame.number) : `Frame 0x${hex(frame.number)} of device ${frame.kind - 1}`);
    panel.append(element("div", "chosen", heading, element("span", `look ${look[0]}`, look[1]), element("span", "meaning", look[2]), mode));
    const pages = state.pagesOf(chosen.item).map((cell) => {
      const { space, page } = index.cells[cell], button = element("button", "jump", `${pageText(space, page)} of space ${space}: ${entryWords(state.lo[cell], state.hi[cell])}`);
      button.type = "button";
      button.addEventListener("click", () => app.select("page", cell));
      return button;
    });
    const notes = [element("p", "", `${state.names[chosen.item]} entries name it, ${state.pins[chosen.item]} pins.`)];
    const past = part("History", history(index.frameEvents[chosen.item]));
    past.classList.add("past");
    panel.append(element("div", "parts", part("Who maps it", ...notes, ...pages), past));
    showNow(past);
  };
  return { draw };
})();

const costsPanel = (() => {
  const panel = document.getElementById("costs");
  const PHASE_CLASSES = ["collect", "unmap", "copying", "finalize"];
  const median = (list) => [...list].sort((x, y) => x - y)[Math.floor(list.length / 2)];

  const build = () => {
    panel.append(element("p", "hint", "Times are QEMU's and include writing the trace; compare them with each other, not with hardware."));
    const key = element("p", "phases-key");
    PHASE_CLASSES.forEach((name, i) => key.append(element("span", `swatch ${name}`), ` ${PHASES[i]}  `));
    panel.append(key);
    const longest = Math.max(1, ...migrations.map((one) => microseconds(one.end) - microseconds(one.begin)));
    for (const one of migrations.slice(0, 200)) {
      const total = microseconds(one.end) - microseconds(one.begin);
      const title = one.eviction !== undefined ? `Eviction of device ${one.eviction}`
        : `${one.device >= 0 ? `To device ${one.device}` : "Home"}: ${rangeText(one.space, one.first, one.pages)} of space ${one.space}`;
      const bar = element("div", "bar");
      bar.style.width = `${Math.max(4, (total / longest) * 100)}%`;
      for (const phase of one.phases) {
        const piece = element("span", PHASE_CLASSES[phase.phase]);
        piece.style.flexGrow = String(Math.max(0.001, microseconds(phase.end) - microseconds(phase.begin)));
        piece.title = `${PHASES[phase.phase]}: ${timeText(microseconds(phase.end) - microseconds(phase.begin))}`;
        bar.append(piece);
      }
      const reasons = [...one.stays].map(([name, count]) => `${count} stayed: ${name}`).join(", ");
      const text = `${one.moved} of ${one.pages} moved${reasons ? ", " + reasons : ""}; ${timeText(total)}` + (one.phases.length ? `, ${one.flushes} flush${one.flushes === 1 ? "" : "es"}` : "");
      const card = element("div", "migration", jump(one.begin, title), element("small", "", text), bar);
      panel.append(card);
      one.card = card;
    }
    if (!migrations.length) panel.append(element("p", "", "No call moved pages in this run."));
    panel.append(element("h3", "", "Faults"));
    panel.append(table("faults", ["outcome", "times", "median", "longest"], [...faultCosts].map(([name, list]) => [OUTCOMES[name] ?? name, grouped(list.length), timeText(median(list)), timeText(list.reduce((x, y) => Math.max(x, y), 0))])));
    const places = new Map();
    for (let i = 0; i < data.length; i++) if (data.kind[i] === Kind.FaultRaised) places.set(data.c[i], (places.get(data.c[i]) ?? 0) + 1);
    if (places.size) {
      panel.append(element("h3", "", "Instructions that faulted"));
      panel.append(table("faults", ["instruction", "times"], [...places].map(([at, count]) => [head.instructions[at], grouped(count)])));
    }
  };
  const draw = (position) => {
    for (const one of migrations) one.card?.classList.toggle("here", one.begin < position && position <= one.end + 1);
  };
  return { build, draw };
})();
