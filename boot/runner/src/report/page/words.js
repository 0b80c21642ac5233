// Events in words, and the groups that the filters know.

const Group = {
  program: { name: "program", title: "What the program does, and steps of the story" },
  fault: { name: "faults", title: "Page faults, raised and handled" },
  entry: { name: "entries", title: "Changes of page-table entries" },
  flush: { name: "flushes", title: "What CPUs, and devices that look along, are told to forget" },
  migration: { name: "migrations", title: "Phases of migrations, evictions, pages that stay" },
  copy: { name: "copies", title: "Bytes of pages copied or cleared, and the device's work" },
  frame: { name: "frames", title: "Frames taken and freed, pins" },
  space: { name: "spaces", title: "Spaces and areas" },
  count: { name: "counts", title: "How many pages each space counts, by kind; off at first, because it follows from the rest", off: true },
};
const GROUPS = Object.keys(Group);

const groupOfKind = (() => {
  const groups = new Array(37).fill("space");
  const set = (group, ...kinds) => kinds.forEach((kind) => { groups[kind] = group; });
  set("program", Kind.Step, Kind.Loaded, Kind.Stored);
  set("fault", Kind.FaultRaised, Kind.FaultHandled);
  set("entry", Kind.Entry);
  set("flush", Kind.Flush, Kind.FlushLost, Kind.Announced, Kind.AnnouncementEnds);
  set("count", Kind.Charged, Kind.Uncharged);
  set("migration", Kind.Migration, Kind.Moved, Kind.Stays, Kind.EvictionBegins, Kind.EvictionEnds);
  set("copy", Kind.Copied, Kind.Cleared, Kind.DeviceWorked, Kind.DiskWritten, Kind.DiskRead);
  set("frame", Kind.FrameTaken, Kind.FrameFreed, Kind.DeviceFrameTaken, Kind.DeviceFrameFreed, Kind.Pinned, Kind.Unpinned);
  return groups;
})();
const groupOf = (i) => groupOfKind[data.kind[i]];

const PHASES = ["collect", "unmap", "copy", "finalize", "give back", "done"];
const PHASE_WORDS = [
  "entries become Migrating, then one flush", "does anybody else use the pages?", "new frames, and the contents",
  "the new entries, or the old ones again", "every page that is still held goes back", "over",
];

// A page by its number in its space, which is what the grid shows.
const pageText = (space, page) => {
  const first = index.firstPage.get(space);
  return first === undefined ? addressText(page) : `page ${page - first}`;
};
const spaceText = (space) => (space === 0xff ? "the kernel" : `space ${space}`);
const rangeText = (space, page, pages) =>
  (pages === 1 ? pageText(space, page) : `${pageText(space, page).replace("page", "pages")}–${page - (index.firstPage.get(space) ?? 0) + pages - 1}`);
const cpusText = (mask) => [...Array(32).keys()].filter((cpu) => mask & (1 << cpu)).map((cpu) => `CPU ${cpu}`).join(", ");

const OUTCOMES = {
  "stale": "this CPU had an older translation; it has forgotten it",
  "zero-page": "the zero page is mapped, read-only",
  "fresh-page": "a fresh, zeroed frame is mapped",
  "copied": "the page was shared: a copy of its own is mapped",
  "writable": "nobody else uses the page: it may be written where it is",
  "came-home": "the page came home from its device",
};

// Why a page stays.
const REASONS = {
  "pinned": "somebody uses its frame by its physical address",
  "referenced": "somebody else still has a reference to its frame",
  "already-there": "it is where it shall go",
  "device-full": "the device has no room",
  "busy": "another CPU works on it",
  "empty": "there is nothing to move",
};

const AREA_KINDS = ["memory of its own", "memory that a fork shares for good", "a device's addresses", "a guard: every access is an error"];
const RESIDENT = ["in RAM", "that are the zero page", "on a device", "on the swap disk"];

// How long each fault took that was handled, in microseconds, by the event that ends it.
const faultTimes = (() => {
  const raised = new Map(), times = new Map();
  for (let i = 0; i < data.length; i++) {
    if (data.kind[i] === Kind.FaultRaised) raised.set(data.cpu[i], i);
    if (data.kind[i] !== Kind.FaultHandled || !raised.has(data.cpu[i])) continue;
    times.set(i, microseconds(i) - microseconds(raised.get(data.cpu[i])));
    raised.delete(data.cpu[i]);
  }
  return times;
})();
const timeText = (us) => (us >= 1000 ? `${(us / 1000).toFixed(1)} ms` : `${us.toFixed(us < 10 ? 1 : 0)} µs`);

// A load or a store of the program happens in the space that its CPU is in.
const spaceOfCpuAt = (i) => index.entered[i];

const words = (i) => {
  const space = spaceOf(i), page = pageOf(i);
  switch (data.kind[i]) {
    case Kind.SpaceCreated: return `space ${data.a[i]} is made; its level-4 table is RAM frame 0x${hex(data.b[i])}`;
    case Kind.SpaceDestroyed: return `space ${data.a[i]} is gone`;
    case Kind.Forked: return `fork: space ${data.b[i]} has the areas of space ${data.a[i]}`;
    case Kind.Entered: return `CPU ${data.cpu[i]} uses space ${data.a[i]}`;
    case Kind.Left: return `CPU ${data.cpu[i]} leaves space ${data.a[i]} and forgets its translations`;
    case Kind.Areas: {
      const rights = ["none", "read", "read, write", "read, write"][(data.d[i] - 1) & 3];
      return data.d[i] ? `an area: ${rangeText(space, page, data.c[i])} of space ${space} (${rights}; ${AREA_KINDS[data.e[i]]})`
        : `no area any more: ${rangeText(space, page, data.c[i])} of space ${space}`;
    }
    case Kind.Entry: {
      const level = levelOf(i);
      if (level > 1) {
        return `level-${level} entry of ${spaceText(space)}: ${data.e[i] & 1 ? `links a level-${level - 1} table, RAM frame 0x${hex(field(data.e[i], data.f[i]))}` : "cut"}`;
      }
      return `${pageText(space, page)} of ${spaceText(space)}: ${entryWords(data.c[i], data.d[i], true)} → ${entryWords(data.e[i], data.f[i], true)}`;
    }
    case Kind.FaultRaised: {
      const code = data.d[i], at = spaceOfCpuAt(i);
      const how = code & 16 ? "fetch from" : code & 2 ? "store to" : "load from";
      return `page fault: a ${how} ${pageText(at, page)}, whose entry ${code & 1 ? "forbids it" : "is not present"}`;
    }
    case Kind.FaultHandled: {
      const name = head.names[data.d[i]];
      const took = faultTimes.has(i) ? ` after ${timeText(faultTimes.get(i))}` : "";
      return `fault on ${pageText(space, page)} ${data.c[i] >> 8 ? "handled" : "refused"}${took}: ${OUTCOMES[name] ?? name}`;
    }
    case Kind.Flush: {
      const what = data.c[i] ? rangeText(space, page, data.c[i]) + ` of space ${space}` : `every page of space ${space}`;
      return `${data.f[i] ? "LOST flush" : "flush"}: ${cpusText(data.d[i])} ${data.f[i] ? "should forget" : "forgets"} ${what}`;
    }
    case Kind.FlushLost: return "the flush was not carried out, on purpose: older translations stay in use";
    case Kind.Migration: {
      const where = data.d[i] ? `to device ${data.d[i] - 1}` : "home";
      const range = `${rangeText(space, page, data.c[i])} of space ${space}`;
      const phase = data.e[i];
      if (phase === 5) return `migration ${where} over: ${data.f[i]} of ${data.c[i]} pages moved`;
      return `migration of ${range} ${where}, ${PHASES[phase]}: ${PHASE_WORDS[phase]}`;
    }
    case Kind.Moved: return `${pageText(space, page)} of space ${space} has moved`;
    case Kind.Stays: {
      const name = head.names[data.d[i]];
      return `${pageText(space, page)} of space ${space} stays: ${name}${REASONS[name] ? `, ${REASONS[name]}` : ""}`;
    }
    case Kind.Announced: return `listeners have stopped using ${rangeText(space, page, data.c[i])} of space ${space}: ${head.names[data.d[i]]}`;
    case Kind.AnnouncementEnds: return `listeners may use ${rangeText(space, page, data.c[i])} of space ${space} again`;
    case Kind.Charged: return `space ${space} counts ${grouped(data.c[i])} more of its pages ${RESIDENT[data.d[i]]}`;
    case Kind.Uncharged: return `space ${space} counts ${grouped(data.c[i])} fewer of its pages ${RESIDENT[data.d[i]]}`;
    case Kind.Cleared: return `${frameText([data.c[i], data.d[i]])} is filled with zeros`;
    case Kind.EvictionBegins: return `eviction: every page on device ${data.a[i]} shall come home`;
    case Kind.EvictionEnds: return `eviction over: ${data.b[i]} pages came home, ${data.c[i]} did not`;
    case Kind.FrameTaken: case Kind.FrameFreed: {
      const how = data.kind[i] === Kind.FrameTaken ? "is taken" : "is free";
      return data.b[i] ? `a block of ${2 ** data.b[i]} RAM frames from 0x${hex(data.a[i])} ${how}` : `RAM frame 0x${hex(data.a[i])} ${how}`;
    }
    case Kind.Device: return `device ${data.a[i]} has ${grouped(data.b[i])} frames`;
    case Kind.DeviceFrameTaken: return `device ${data.a[i]} frame 0x${hex(data.b[i])} is taken`;
    case Kind.DeviceFrameFreed: return `device ${data.a[i]} frame 0x${hex(data.b[i])} is cleared and free`;
    case Kind.Copied: return `4096 bytes copied: ${frameText([data.a[i], data.b[i]])} → ${frameText([data.c[i], data.d[i]])}`;
    case Kind.Pinned: return `${pageText(space, page)} of space ${space} is pinned in ${frameText([data.c[i], data.d[i]])}`;
    case Kind.Unpinned: return `a pin of ${frameText([data.c[i], data.d[i]])} ends`;
    case Kind.DeviceWorked: return `device ${data.a[i]} has inverted the bytes of ${grouped(data.b[i])} of its frames`;
    case Kind.DiskWritten: return `4096 bytes written: RAM frame 0x${hex(data.b[i])} → slot ${data.a[i]} of the swap disk`;
    case Kind.DiskRead: return `4096 bytes read: slot ${data.a[i]} of the swap disk → RAM frame 0x${hex(data.b[i])}`;
    case Kind.Step: return `step ${data.a[i]}: ${head.steps[data.a[i]]?.[0] ?? ""}`;
    case Kind.Loaded: return `the program in space ${spaceOfCpuAt(i)} loads 0x${hex(data.c[i])} from ${pageText(spaceOfCpuAt(i), page)}`;
    case Kind.Stored: return `the program in space ${spaceOfCpuAt(i)} has stored 0x${hex(data.c[i])} to ${pageText(spaceOfCpuAt(i), page)}${forbiddenStores.has(i) ? ", though its entry forbids it: the TLB is stale" : ""}`;
    case Kind.Lost: return `${grouped(data.a[i])} records are missing here`;
    default: return "";
  }
};

// The page that an event is about, as a cell; -1 where it is about none.
const cellOf = (i) => {
  switch (data.kind[i]) {
    case Kind.Entry: return levelOf(i) === 1 ? index.cellAt(spaceOf(i), pageOf(i)) : -1;
    case Kind.FaultHandled: case Kind.Moved: case Kind.Stays: case Kind.Pinned: return index.cellAt(spaceOf(i), pageOf(i));
    case Kind.FaultRaised: case Kind.Loaded: case Kind.Stored: return index.cellAt(spaceOfCpuAt(i), pageOf(i));
    default: return -1;
  }
};

// The frames that an event is about.
const framesOf = (i) => {
  switch (data.kind[i]) {
    case Kind.FrameTaken: case Kind.FrameFreed: return data.b[i] ? [] : [index.frameAt(0, data.a[i])];
    case Kind.DeviceFrameTaken: case Kind.DeviceFrameFreed: return [index.frameAt(data.a[i] + 1, data.b[i])];
    case Kind.DiskWritten: case Kind.DiskRead: return [index.frameAt(0, data.b[i])];
    case Kind.Copied: return [index.frameAt(data.a[i], data.b[i]), index.frameAt(data.c[i], data.d[i])];
    case Kind.Pinned: case Kind.Unpinned: case Kind.Cleared: return [index.frameAt(data.c[i], data.d[i])];
    default: return [];
  }
};

const Looks = {
  page: [
    ["", "no area", "nothing may be touched here"],
    ["untouched", "untouched", "in an area, never touched: the entry is empty"],
    ["zero", "zero page", "only read so far: the shared page of zeros"],
    ["writable", "RAM", "in a RAM frame, writable"],
    ["readonly", "RAM, read-only", "in a RAM frame; a store faults"],
    ["shared", "shared", "in a frame that another space names, too; a store gets a copy"],
    ["moving", "migrating", "on its way: an access waits"],
    ["device", "device", "in device memory: an access brings it home"],
    ["mapped", "device, mapped", "in device memory that CPUs reach"],
    ["swapped", "swapped", "on the swap disk"],
    ["exclusive", "exclusive", "a device has it for itself"],
    ["noaccess", "no access", "in RAM, but its area forbids access"],
    ["poison", "poison", "its contents are lost"],
    ["poison", "damaged", "no entry of ours"],
  ],
  frame: [
    ["kernel", "kernel", "the kernel's own"],
    ["free", "free", "nobody uses it"],
    ["inhand", "unmapped", "taken, but no entry names it: being filled or let go"],
    ["table", "table", "a page table"],
    ["writable", "page", "holds a page"],
    ["shared", "shared page", "holds a page that several entries name"],
    ["moving", "on its way", "holds a page that is migrating"],
    ["pinned", "pinned", "holds a page that must not move"],
    ["zero", "zero page", "what untouched pages read as"],
    ["device", "page on a device", "holds a page, in the device's memory"],
  ],
};

// The look of a page or a frame. Frames of devices that hold a page have the colour of pages that are there.
const PAGE_ON_DEVICE = 9;
const lookOf = (kind, state, item) => {
  if (kind === "page") return state.page(item);
  const look = state.frame(item);
  return look === Frame.Page && index.frames[item].kind > 0 ? PAGE_ON_DEVICE : look;
};
