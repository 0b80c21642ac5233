// The records: columns of numbers, as columns.rs packs them.

const head = JSON.parse(document.getElementById("head").textContent);

// The kinds, with the numbers and operands that columns.rs gives them.
const Kind = {
  SpaceCreated: 1, SpaceDestroyed: 2, Forked: 3, Entered: 4, Left: 5, Areas: 6, Entry: 7, FaultRaised: 8, FaultHandled: 9,
  Flush: 10, FlushLost: 11, Migration: 12, Stays: 13, EvictionBegins: 14, EvictionEnds: 15, FrameTaken: 16, FrameFreed: 17,
  Device: 18, DeviceFrameTaken: 19, DeviceFrameFreed: 20, Copied: 21, Pinned: 22, Unpinned: 23, DeviceWorked: 24, Step: 25,
  Loaded: 26, Stored: 27, Lost: 28, DiskWritten: 29, DiskRead: 30, Moved: 31, Cleared: 32, Charged: 33, Uncharged: 34,
  Announced: 35, AnnouncementEnds: 36,
};

const PAGE_BYTES = 4096;
const TWO_32 = 2 ** 32;

const data = (() => {
  const element = document.getElementById("data");
  const text = atob(element.textContent);
  element.remove();
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  const n = head.length;
  const start = Math.ceil(2 * n / 4) * 4;
  const column = (index) => new Uint32Array(bytes.buffer, start + index * 4 * n, n);
  const [time, a, b, c, d, e, f] = [0, 1, 2, 3, 4, 5, 6].map(column);
  return { length: n, kind: bytes.subarray(0, n), cpu: bytes.subarray(n, 2 * n), time, a, b, c, d, e, f };
})();

// The page number in operands a and b, and what stands beside it.
const pageOf = (i) => (data.b[i] >>> 16) * TWO_32 + data.a[i];
const besideOf = (i) => data.b[i] & 0xffff;
const spaceOf = (i) => data.b[i] & 0xff;
const levelOf = (i) => (data.b[i] >>> 8) & 0xff;
// Time is counted in tenths of a microsecond.
const microseconds = (i) => data.time[i] / 10;

const hex = (number) => number.toString(16);
const hex64 = (lo, hi) => "0x" + hi.toString(16).padStart(8, "0") + lo.toString(16).padStart(8, "0");
const addressText = (page, offset = 0) => "v0x" + hex(page * PAGE_BYTES + offset).padStart(12, "0");
const grouped = (number) => number.toLocaleString("en-US");
