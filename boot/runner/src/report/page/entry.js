// The bits of a page-table entry: the same layout as kernel/mm/src/page_table/entry.rs.

const EntryKind = {
  Empty: 0, Swap: 1, Migrating: 2, Device: 3, Exclusive: 4, NoAccess: 5, Poison: 6, Unknown: 7, Present: 8,
};

const ACCESSED_DIRTY = 0x60;

// Frame number or payload: bits 12 to 51.
const field = (lo, hi) => (hi & 0xfffff) * 2 ** 20 + (lo >>> 12);
const payload = (lo, hi) => 2 ** 40 - 1 - field(lo, hi);

const kindOfEntry = (lo, hi) => {
  if (lo & 1) return EntryKind.Present;
  if (lo === 0 && hi === 0) return EntryKind.Empty;
  return (lo >>> 9) & 7 || EntryKind.Unknown;
};

// Without the bits that CPUs set by themselves.
const withoutUsed = (lo) => (lo & 1 ? (lo & ~ACCESSED_DIRTY) >>> 0 : lo);

// The frame that a level-1 entry names, as [0, number] in RAM or [device + 1, index]; one behind a window is the device's.
const frameOfEntry = (lo, hi) => {
  switch (kindOfEntry(lo, hi)) {
    case EntryKind.Present: {
      const number = field(lo, hi);
      for (const [device, frames, window] of head.devices) {
        if (window !== null && number >= window && number < window + frames) return [device + 1, number - window];
      }
      return [0, number];
    }
    case EntryKind.Migrating:
      if (!(lo & 0x100)) return [0, payload(lo, hi)];
    // falls through: its payload names a device frame.
    case EntryKind.Device:
      return [Math.floor(payload(lo, hi) / TWO_32) + 1, payload(lo, hi) % TWO_32];
    case EntryKind.Exclusive:
    case EntryKind.NoAccess:
      return [0, payload(lo, hi)];
    default:
      return null;
  }
};

const frameText = ([kind, number]) => (kind === 0 ? "RAM frame 0x" + hex(number) : `device ${kind - 1} frame 0x${hex(number)}`);

// One sentence for a level-1 entry; in brief, without what only its owner needs to know.
const entryWords = (lo, hi, isBrief = false) => {
  const right = lo & 2 ? "writable" : "read-only";
  switch (kindOfEntry(lo, hi)) {
    case EntryKind.Empty: return "empty";
    case EntryKind.Present: return `present, ${frameText(frameOfEntry(lo, hi))}, ${right}`;
    case EntryKind.Swap: return `swapped out, slot ${payload(lo, hi)}`;
    case EntryKind.Migrating: return `migrating from ${frameText(frameOfEntry(lo, hi))}` + (isBrief ? "" : `, taken by CPU ${(hi >>> 20) & 0x7f}`);
    case EntryKind.Device: return `on ${frameText(frameOfEntry(lo, hi))}` + (isBrief ? "" : `, ${right} when it comes home`);
    case EntryKind.Exclusive: return `${frameText(frameOfEntry(lo, hi))}, in exclusive use by a device`;
    case EntryKind.NoAccess: return `${frameText(frameOfEntry(lo, hi))}, no access allowed`;
    case EntryKind.Poison: return "poisoned: the contents are lost";
    default: return "none of ours: damaged";
  }
};

// Every bit by name: [bits, value, name, what it says].
const entryBits = (lo, hi, level) => {
  const bit = (n) => (n < 32 ? (lo >>> n) & 1 : (hi >>> (n - 32)) & 1);
  const flag = (n, name, yes, no) => [String(n), String(bit(n)), name, bit(n) ? yes : no];
  const kind = kindOfEntry(lo, hi);
  if (kind === EntryKind.Empty) return [["63–0", "0", "empty", "nothing is here, and nothing was"]];
  const rows = [flag(63, "NX", "no execute", level > 1 ? "execution decided below" : kind === EntryKind.Present ? "execution allowed" : "not kept: the area decides")];
  if (kind === EntryKind.Present) {
    rows.push(["62–52", hex((hi >>> 20) & 0x7ff), "ignored", "free for software, unused here"]);
    rows.push(["51–12", "0x" + hex(field(lo, hi)), "frame", level > 1 ? `the level-${level - 1} table` : "where the page is"]);
    rows.push(["11–9", hex((lo >>> 9) & 7), "OS", "unused in present entries"]);
    if (level === 1) rows.push(flag(8, "G", "survives a write to CR3", "forgotten at a write to CR3"));
    rows.push(flag(7, level > 1 ? "PS" : "PAT", level > 1 ? "a large page" : "memory type", level > 1 ? "a table follows" : "memory type: ordinary"));
    if (level === 1) rows.push(flag(6, "D", "a store went through it (*)", "no store noted (*)"));
    rows.push(flag(5, "A", "a CPU has used it (*)", "no use noted (*)"));
    rows.push(flag(4, "PCD", "not cached", "cached"), flag(3, "PWT", "write-through", "write-back"));
    rows.push(flag(2, "U", "user mode may", "kernel only"), flag(1, "W", "stores allowed", "stores fault"));
    rows.push(flag(0, "P", "present: the CPU uses it", ""));
    return rows;
  }
  const names = ["", "swap", "migrating", "device", "exclusive", "no access", "poison", "unknown"];
  rows.push(["62–59", hex((hi >>> 27) & 0xf), "unused", "zero"]);
  rows.push(["58–52", hex((hi >>> 20) & 0x7f), "owner", kind === EntryKind.Migrating ? "the CPU that moves it" : "unused"]);
  const frame = frameOfEntry(lo, hi);
  rows.push(["51–12", "0x" + hex(field(lo, hi)), "payload", `inverted: ${frame ? frameText(frame) : payload(lo, hi)}`]);
  rows.push(["11–9", String((lo >>> 9) & 7), "kind", names[kind]]);
  rows.push(flag(8, "V", "the payload is a device frame", "the payload is no device frame of a move"));
  rows.push(flag(6, "D", "was dirty", "was clean"), flag(5, "A", "was used", "was not used"));
  rows.push(flag(2, "U", "user mode may, when present", "kernel only"), flag(1, "W", "writable when it comes back", "read-only when it comes back"));
  rows.push(flag(0, "P", "", "not present: an access faults"));
  return rows;
};
