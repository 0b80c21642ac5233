// The state after any number of events, as replay.rs computes it; keyframes make any moment cheap to reach.

// What a page is, and what a frame is: the numbers of view.rs.
const Page = {
  None: 0, Untouched: 1, Zero: 2, Writable: 3, ReadOnly: 4, Shared: 5, Migrating: 6, Device: 7, DeviceMapped: 8, Swapped: 9,
  Exclusive: 10, NoAccess: 11, Poison: 12, Damaged: 13,
};
const Frame = { Kernel: 0, Free: 1, InHand: 2, Table: 3, Page: 4, Shared: 5, Moving: 6, Pinned: 7, Zero: 8 };
const Use = { Kernel: 0, Free: 1, Taken: 2, Zero: 3 };

const KEYFRAME_EVENTS = 1024;

// Every page that was ever in an area, every frame that was ever taken, and the events of each.
const index = (() => {
  const cells = [], cellByKey = new Map(), frames = [], frameByKey = new Map();
  const cellKey = (space, page) => space * 2 ** 36 + page;
  const frameKey = (kind, number) => kind * 2 ** 36 + number;
  const addCell = (space, page) => {
    const key = cellKey(space, page);
    if (!cellByKey.has(key)) cellByKey.set(key, cells.push({ space, page }) - 1);
  };
  const addFrame = (kind, number) => {
    const key = frameKey(kind, number);
    if (!frameByKey.has(key)) frameByKey.set(key, frames.push({ kind, number }) - 1);
  };
  const areas = new Map();
  for (let i = 0; i < data.length; i++) {
    switch (data.kind[i]) {
      case Kind.SpaceCreated: areas.set(data.a[i], new Set()); addFrame(0, data.b[i]); break;
      case Kind.Forked:
        for (const page of areas.get(data.a[i])) { addCell(data.b[i], page); areas.get(data.b[i]).add(page); }
        break;
      case Kind.Areas: {
        const space = spaceOf(i), first = pageOf(i);
        for (let page = first; page < first + data.c[i]; page++) {
          if (data.d[i]) { addCell(space, page); areas.get(space).add(page); } else areas.get(space).delete(page);
        }
        break;
      }
      case Kind.FrameTaken: if (data.b[i] === 0) addFrame(0, data.a[i]); break;
      case Kind.DeviceFrameTaken: addFrame(data.a[i] + 1, data.b[i]); break;
      case Kind.Entry: if (levelOf(i) === 1) {
        for (const [lo, hi] of [[data.c[i], data.d[i]], [data.e[i], data.f[i]]]) {
          const frame = frameOfEntry(lo, hi);
          if (frame) addFrame(...frame);
        }
        break;
      }
    }
  }
  // In the order of addresses, so that neighbours are neighbours.
  cells.sort((x, y) => x.space - y.space || x.page - y.page);
  frames.sort((x, y) => x.kind - y.kind || x.number - y.number);
  cells.forEach((cell, i) => cellByKey.set(cellKey(cell.space, cell.page), i));
  frames.forEach((frame, i) => frameByKey.set(frameKey(frame.kind, frame.number), i));
  const cellAt = (space, page) => cellByKey.get(cellKey(space, page)) ?? -1;
  const frameAt = (kind, number) => frameByKey.get(frameKey(kind, number)) ?? -1;

  // First page of each space's cells: pages are counted from there.
  const firstPage = new Map();
  for (const { space, page } of cells) if (!firstPage.has(space)) firstPage.set(space, page);
  const cellEvents = cells.map(() => []), frameEvents = frames.map(() => []);
  // The space that each event's CPU is in; 0xff for none.
  const entered = new Uint8Array(data.length);
  const spaceOfCpu = new Map();
  for (let i = 0; i < data.length; i++) {
    const kind = data.kind[i];
    if (kind === Kind.Entered) spaceOfCpu.set(data.cpu[i], data.a[i]);
    if (kind === Kind.Left) spaceOfCpu.delete(data.cpu[i]);
    entered[i] = spaceOfCpu.get(data.cpu[i]) ?? 0xff;
    const space = [Kind.FaultRaised, Kind.Loaded, Kind.Stored].includes(kind) ? entered[i] : spaceOf(i);
    const isOfPage = [Kind.Entry, Kind.FaultRaised, Kind.FaultHandled, Kind.Moved, Kind.Stays, Kind.Pinned, Kind.Loaded, Kind.Stored];
    if (isOfPage.includes(kind) && !(kind === Kind.Entry && levelOf(i) > 1)) {
      const cell = cellAt(space, pageOf(i));
      if (cell >= 0) cellEvents[cell].push(i);
    }
    const touch = (frame) => { if (frame >= 0 && frameEvents[frame][frameEvents[frame].length - 1] !== i) frameEvents[frame].push(i); };
    switch (kind) {
      case Kind.FrameTaken: case Kind.FrameFreed:
        if (data.b[i] === 0) touch(frameAt(0, data.a[i]));
        break;
      case Kind.DeviceFrameTaken: case Kind.DeviceFrameFreed: touch(frameAt(data.a[i] + 1, data.b[i])); break;
      case Kind.DiskWritten: case Kind.DiskRead: touch(frameAt(0, data.b[i])); break;
      case Kind.Copied: touch(frameAt(data.a[i], data.b[i])); touch(frameAt(data.c[i], data.d[i])); break;
      case Kind.Pinned: case Kind.Unpinned: case Kind.Cleared: touch(frameAt(data.c[i], data.d[i])); break;
      case Kind.Entry: if (levelOf(i) === 1) {
        for (const [lo, hi] of [[data.c[i], data.d[i]], [data.e[i], data.f[i]]]) {
          const frame = frameOfEntry(lo, hi);
          if (frame) touch(frameAt(...frame));
        }
      }
    }
  }
  return { cells, frames, cellAt, frameAt, firstPage, cellEvents, frameEvents, entered };
})();

class State {
  constructor() {
    const n = index.cells.length, m = index.frames.length;
    this.position = 0;
    this.lo = new Uint32Array(n);
    this.hi = new Uint32Array(n);
    // The protection plus one, and the kind of area in the upper byte; 0 where no area is.
    this.area = new Uint16Array(n);
    this.use = new Uint8Array(m).fill(Use.Free);
    this.table = new Uint8Array(m);
    this.names = new Uint16Array(m);
    this.moving = new Uint16Array(m);
    this.pins = new Uint16Array(m);
    // Entries above level 1 by "space/level/page"; spaces by number; the space of each CPU; older translations by cell.
    this.upper = new Map();
    this.spaces = new Map();
    this.entered = new Map();
    this.stale = new Map();
    // Pages that each space counts: in RAM, zero, on devices, swapped out.
    this.charged = new Map();
    index.frames.forEach((frame, i) => {
      if (frame.kind !== 0) return;
      const run = head.frames.find(([first, count]) => frame.number >= first && frame.number < first + count);
      this.use[i] = run ? run[2] : Use.Kernel;
    });
  }

  clone() {
    const copy = Object.create(State.prototype);
    copy.position = this.position;
    for (const name of ["lo", "hi", "area", "use", "table", "names", "moving", "pins"]) copy[name] = this[name].slice();
    for (const name of ["upper", "spaces", "entered", "stale", "charged"]) copy[name] = new Map(this[name]);
    return copy;
  }

  // Applies the event at the position.
  step() {
    const i = this.position++;
    switch (data.kind[i]) {
      case Kind.SpaceCreated:
        this.spaces.set(data.a[i], data.b[i]);
        this.charged.set(data.a[i], [0, 0, 0, 0]);
        this.setTable(data.b[i], 4);
        break;
      case Kind.SpaceDestroyed:
        this.setTable(this.spaces.get(data.a[i]), 0);
        this.spaces.delete(data.a[i]);
        for (const cell of this.stale.keys()) if (index.cells[cell].space === data.a[i]) this.stale.delete(cell);
        break;
      case Kind.Forked:
        index.cells.forEach(({ space, page }, cell) => {
          if (space === data.a[i] && this.area[cell]) this.area[index.cellAt(data.b[i], page)] = this.area[cell];
        });
        break;
      case Kind.Entered: this.entered.set(data.cpu[i], data.a[i]); break;
      case Kind.Left:
        this.entered.delete(data.cpu[i]);
        this.forget(data.a[i], 1 << data.cpu[i], 0, Infinity);
        break;
      case Kind.Areas: {
        const space = spaceOf(i), first = pageOf(i);
        for (let page = first; page < first + data.c[i]; page++) {
          const cell = index.cellAt(space, page);
          if (cell >= 0) this.area[cell] = data.d[i] | data.e[i] << 8;
        }
        break;
      }
      case Kind.Entry: this.entry(i); break;
      case Kind.Flush:
        if (data.f[i]) break;
        if (data.c[i]) this.forget(spaceOf(i), data.d[i], pageOf(i), pageOf(i) + data.c[i]);
        else this.forget(spaceOf(i), data.d[i], 0, Infinity);
        break;
      case Kind.FrameTaken: case Kind.FrameFreed:
        for (let number = data.a[i]; number < data.a[i] + 2 ** data.b[i]; number++) {
          const frame = index.frameAt(0, number);
          if (frame >= 0) this.use[frame] = data.kind[i] === Kind.FrameTaken ? Use.Taken : Use.Free;
        }
        break;
      case Kind.DeviceFrameTaken: this.use[index.frameAt(data.a[i] + 1, data.b[i])] = Use.Taken; break;
      case Kind.DeviceFrameFreed: this.use[index.frameAt(data.a[i] + 1, data.b[i])] = Use.Free; break;
      case Kind.Charged: this.charge(i, data.c[i]); break;
      case Kind.Uncharged: this.charge(i, -data.c[i]); break;
      case Kind.Pinned: this.pins[index.frameAt(data.c[i], data.d[i])]++; break;
      case Kind.Unpinned: this.pins[index.frameAt(data.c[i], data.d[i])]--; break;
    }
  }

  // The list is replaced, not changed: keyframes share it.
  charge(i, pages) {
    this.charged.set(spaceOf(i), this.charged.get(spaceOf(i)).map((count, kind) => (kind === data.d[i] ? count + pages : count)));
  }

  setTable(number, level) {
    const frame = index.frameAt(0, number);
    if (frame >= 0) this.table[frame] = level;
  }

  entry(i) {
    const space = spaceOf(i), level = levelOf(i), page = pageOf(i);
    if (space === 0xff) return;
    const [oldLo, oldHi, newLo, newHi] = [data.c[i], data.d[i], data.e[i], data.f[i]];
    if (level > 1) {
      const key = `${space}/${level}/${page}`;
      if (newLo || newHi) this.upper.set(key, [newLo, newHi]); else this.upper.delete(key);
      if (oldLo & 1) this.setTable(field(oldLo, oldHi), 0);
      if (newLo & 1) this.setTable(field(newLo, newHi), level - 1);
      return;
    }
    const cell = index.cellAt(space, page);
    this.name(oldLo, oldHi, -1);
    this.name(newLo, newHi, 1);
    if (cell < 0) return;
    this.lo[cell] = newLo;
    this.hi[cell] = newHi;
    let cpus = 0;
    for (const [cpu, entered] of this.entered) if (entered === space) cpus |= 1 << cpu;
    if (oldLo & 1 && cpus && (withoutUsed(oldLo) !== withoutUsed(newLo) || oldHi !== newHi)) {
      const older = this.stale.get(cell) ?? [];
      this.stale.set(cell, [...older, { lo: withoutUsed(oldLo), hi: oldHi, cpus }]);
    }
  }

  // Counts or uncounts the frame that a level-1 entry names.
  name(lo, hi, count) {
    const named = frameOfEntry(lo, hi);
    if (!named) return;
    const frame = index.frameAt(...named);
    if (frame < 0) return;
    this.names[frame] += count;
    if (kindOfEntry(lo, hi) === EntryKind.Migrating) this.moving[frame] += count;
  }

  forget(space, cpus, first, end) {
    for (const [cell, older] of this.stale) {
      const at = index.cells[cell];
      if (at.space !== space || at.page < first || at.page >= end) continue;
      const kept = older.map((entry) => ({ ...entry, cpus: entry.cpus & ~cpus })).filter((entry) => entry.cpus);
      if (kept.length) this.stale.set(cell, kept); else this.stale.delete(cell);
    }
  }

  page(cell) {
    if (!this.area[cell]) return Page.None;
    const lo = this.lo[cell], hi = this.hi[cell];
    switch (kindOfEntry(lo, hi)) {
      case EntryKind.Empty: return Page.Untouched;
      case EntryKind.Present: {
        const named = frameOfEntry(lo, hi), frame = index.frameAt(...named);
        if (named[0] > 0) return Page.DeviceMapped;
        if (frame >= 0 && this.use[frame] === Use.Zero) return Page.Zero;
        if (frame >= 0 && this.names[frame] > 1) return Page.Shared;
        return lo & 2 ? Page.Writable : Page.ReadOnly;
      }
      case EntryKind.Swap: return Page.Swapped;
      case EntryKind.Migrating: return Page.Migrating;
      case EntryKind.Device: return Page.Device;
      case EntryKind.Exclusive: return Page.Exclusive;
      case EntryKind.NoAccess: return Page.NoAccess;
      case EntryKind.Poison: return Page.Poison;
      default: return Page.Damaged;
    }
  }

  frame(frame) {
    switch (this.use[frame]) {
      case Use.Kernel: return Frame.Kernel;
      case Use.Zero: return Frame.Zero;
      case Use.Free: return Frame.Free;
    }
    if (this.table[frame]) return Frame.Table;
    if (this.pins[frame]) return Frame.Pinned;
    if (!this.names[frame]) return Frame.InHand;
    if (this.moving[frame]) return Frame.Moving;
    return this.names[frame] > 1 ? Frame.Shared : Frame.Page;
  }

  // The pages whose entries name a frame.
  pagesOf(frame) {
    const { kind, number } = index.frames[frame];
    const pages = [];
    for (let cell = 0; cell < this.lo.length; cell++) {
      if (!this.lo[cell] && !this.hi[cell]) continue;
      const named = frameOfEntry(this.lo[cell], this.hi[cell]);
      if (named && named[0] === kind && named[1] === number) pages.push(cell);
    }
    return pages;
  }

  // The same text as Replay::dump in view.rs.
  dump() {
    const lines = [];
    let last = -1;
    const counts = (space) => lines.push(`space ${space} ${this.charged.get(space).join(" ")}\n`);
    const spaces = [...this.spaces.keys()].sort((x, y) => x - y);
    index.cells.forEach(({ space, page }, cell) => {
      if (!this.area[cell]) return;
      for (const other of spaces) if (other > last && other <= space) counts(other);
      last = Math.max(last, space);
      const raw = (BigInt(this.hi[cell]) << 32n | BigInt(this.lo[cell])).toString(16);
      lines.push(`page ${space} ${hex(page)} ${(this.area[cell] & 0xff) - 1} ${this.area[cell] >>> 8} ${raw} ${this.page(cell)} ${(this.stale.get(cell) ?? []).length}\n`);
    });
    for (const other of spaces) if (other > last) counts(other);
    index.frames.forEach(({ kind, number }, frame) => {
      const place = kind === 0 ? `ram ${hex(number)}` : `device ${kind - 1} ${hex(number)}`;
      lines.push(`${place} ${this.frame(frame)}\n`);
    });
    return lines.join("");
  }
}

// Stores that happened although the entry forbids them: a CPU used an older translation.
const forbiddenStores = new Set();

const model = (() => {
  const keyframes = [new State()];
  const state = keyframes[0].clone();
  while (state.position < data.length) {
    const i = state.position;
    if (data.kind[i] === Kind.Stored) {
      const cell = index.cellAt(index.entered[i], pageOf(i));
      if (cell >= 0 && !((state.lo[cell] & 1) && (state.lo[cell] & 2))) forbiddenStores.add(i);
    }
    state.step();
    if (state.position % KEYFRAME_EVENTS === 0) keyframes.push(state.clone());
  }
  let now = keyframes[0].clone();
  // The state after `position` events: one value that moves, valid until the next call.
  const at = (position) => {
    const keyframe = keyframes[Math.floor(position / KEYFRAME_EVENTS)];
    if (position < now.position || keyframe.position > now.position) now = keyframe.clone();
    while (now.position < position) now.step();
    return now;
  };
  return { at };
})();
