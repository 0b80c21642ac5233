"""Commands for gdb that know pages: ferry walk, entry, areas, frame.

They read the guest's memory and the kernel's own types, so they work wherever the guest stands still: at a breakpoint, in a
fault, after a panic. Nothing in the guest runs for them.

Invariants:
1. Page tables are read through the direct map (kernel/src/arch/layout.rs), which covers all RAM once the kernel has taken the
   tables over; before that there is nothing of Ferry's to see.
2. The bits of an entry are those of kernel/mm/src/page_table/entry.rs. That file is the source; the test
   boot/runner/tests/debug.rs compares what stands here with what `ferry` reads from outside.
"""

import gdb

DIRECT_MAP = 0xFFFF_8000_0000_0000
FRAME_MASK = 0x000F_FFFF_FFFF_F000
PAGE_BYTES = 4096
ENTRY_BYTES = 8

PRESENT, WRITABLE, USER, ACCESSED, DIRTY, HUGE, GLOBAL = (1 << bit for bit in (0, 1, 2, 5, 6, 7, 8))
NO_EXECUTE = 1 << 63

KIND_SHIFT, KIND_MASK = 9, 0b111
OWNER_SHIFT, OWNER_MASK = 52, 0x7F
DEVICE_SOURCE = 1 << 8
DEVICE_SHIFT = 32
PAYLOAD_SHIFT = 12
MAX_PAYLOAD = (1 << 39) - 1

SWAP, MIGRATING, DEVICE, EXCLUSIVE, NO_ACCESS, POISON = range(1, 7)

PROTECTION = ((1, "read"), (2, "write"), (4, "user"))


def number(text):
    """A number or an expression of gdb's, such as $cr2."""
    return int(gdb.parse_and_eval(text)) & 0xFFFF_FFFF_FFFF_FFFF


def physical(address, count):
    """Bytes of RAM at a physical address."""
    return bytes(gdb.selected_inferior().read_memory(DIRECT_MAP + address, count))


def word(address):
    return int.from_bytes(physical(address, ENTRY_BYTES), "little")


def flag_words(raw):
    words = ["writable" if raw & WRITABLE else "read-only"]
    named = ((USER, "user"), (ACCESSED, "accessed"), (DIRTY, "dirty"), (GLOBAL, "global"), (NO_EXECUTE, "no execute"))
    return ", ".join(words + [name for flag, name in named if raw & flag])


def device_frame(payload):
    return payload >> DEVICE_SHIFT, payload & 0xFFFF_FFFF


def meaning(raw, level=1):
    """What an entry of a table of this level says, in the words that `ferry` uses."""
    if raw == 0:
        return "empty"
    if raw & PRESENT:
        if level == 1 or raw & HUGE:
            return f"present, page frame p{raw & FRAME_MASK:#x}, {flag_words(raw)}"
        return f"present, next table p{raw & FRAME_MASK:#x}"
    payload = (~raw & FRAME_MASK) >> PAYLOAD_SHIFT
    kind = raw >> KIND_SHIFT & KIND_MASK
    if payload > MAX_PAYLOAD:
        return "no encoding that the memory manager knows"
    if kind == SWAP:
        return f"not present: swapped out to slot {payload}"
    if kind == MIGRATING:
        return "not present: on its way (migrating)"
    if kind == DEVICE:
        device, index = device_frame(payload)
        rights = "writable" if raw & WRITABLE else "read-only"
        return f"not present: on device {device}, device frame {index}; {rights} when it comes home"
    if kind == EXCLUSIVE:
        return "not present: the device has exclusive access"
    if kind == NO_ACCESS:
        return "not present: the area forbids every access"
    if kind == POISON:
        return "not present: poisoned, its contents are lost"
    return "no encoding that the memory manager knows"


def walk(root, address):
    """The entries on the path of an address: level, index, raw bits, root first."""
    table = root & FRAME_MASK
    for level in (4, 3, 2, 1):
        index = address >> (PAYLOAD_SHIFT + 9 * (level - 1)) & 0x1FF
        raw = word(table + index * ENTRY_BYTES)
        yield level, index, raw
        if not raw & PRESENT or level == 1 or (raw & HUGE and level <= 3):
            return
        table = raw & FRAME_MASK


def field(value, path):
    """A field of a field, by names with dots between them."""
    for name in path.split("."):
        value = value[name]
    return value


def unwrap(value):
    """The value inside Once, UnsafeCell, MaybeUninit and the like."""
    while True:
        names = [entry.name for entry in value.type.strip_typedefs().fields() if entry.name]
        inner = next((name for name in ("data", "inner", "value", "__0") if name in names), None)
        if inner is None or value.type.strip_typedefs().name.startswith("ferry_mm::manager::"):
            return value
        value = value[inner]


def manager():
    return unwrap(gdb.parse_and_eval("ferry_kernel::memory::MANAGER"))


def atomic(value):
    return int(field(value, "v.value"))


def pointer_and_length(slice_value):
    return slice_value["data_ptr"], int(slice_value["length"])


def vector(value):
    """The elements of an alloc::vec::Vec."""
    element = value.type.strip_typedefs().template_argument(0)
    pointer = field(value, "buf.inner.ptr.pointer.pointer").cast(element.pointer())
    return [pointer[index] for index in range(int(value["len"]))]


def spaces():
    """The living address spaces: number and state."""
    pointer, length = pointer_and_length(manager()["spaces"])
    for index in range(length):
        state = pointer[index]
        if atomic(state["root"]) != 0:
            yield index, state


def page_address(page):
    return int(field(page, "start_address.__0"))


class Ferry(gdb.Command):
    """Commands that know Ferry's page tables, areas and frames."""

    def __init__(self):
        super().__init__("ferry", gdb.COMMAND_DATA, prefix=True)


class Walk(gdb.Command):
    """ferry walk ADDRESS: the entries on the path of an address, through CR3, each in words."""

    def __init__(self):
        super().__init__("ferry walk", gdb.COMMAND_DATA)

    def invoke(self, argument, from_tty):
        if not argument:
            raise gdb.GdbError("ferry walk ADDRESS: give an address, such as 0x123456789000 or $cr2")
        for level, index, raw in walk(number("$cr3"), number(argument)):
            print(f"L{level}[{index:3}]  {raw:#018x}  {meaning(raw, level)}")


class Entry(gdb.Command):
    """ferry entry VALUE: what the 64 bits of a level-1 entry mean."""

    def __init__(self):
        super().__init__("ferry entry", gdb.COMMAND_DATA)

    def invoke(self, argument, from_tty):
        if not argument:
            raise gdb.GdbError("ferry entry VALUE: give the bits of an entry, such as 0x000fffffffef4602")
        raw = number(argument)
        print(f"{raw:#018x}  {meaning(raw)}")


class Areas(gdb.Command):
    """ferry areas: the areas of every address space, and where its pages are."""

    def __init__(self):
        super().__init__("ferry areas", gdb.COMMAND_DATA)

    def invoke(self, argument, from_tty):
        found = False
        for index, state in spaces():
            found = True
            print(f"space {index}: level-4 table p{atomic(state['root']):#x}, CPUs {atomic(state['cpus']):#b}")
            for area in vector(field(state, "areas.inner.data.value.areas")):
                start, pages = page_address(field(area, "range.start")), int(field(area, "range.pages"))
                bits = int(field(area, "protection.__0.__0"))
                allowed = ", ".join(word for bit, word in PROTECTION if bits & bit) or "nothing"
                print(f"  v{start:#018x}  {pages} pages, {allowed}")
        if not found:
            print("there is no address space")


class Frame(gdb.Command):
    """ferry frame N: what is known about RAM frame N (its physical address divided by 4096)."""

    KINDS = ("reserved", "free", "inside a free block", "owned", "a page table", "an anonymous page", "the zero page")

    def __init__(self):
        super().__init__("ferry frame", gdb.COMMAND_DATA)

    def invoke(self, argument, from_tty):
        if not argument:
            raise gdb.GdbError("ferry frame N: give a frame's number, its physical address divided by 4096")
        index = number(argument)
        pointer, length = pointer_and_length(field(manager(), "memory.descriptors"))
        if index >= length:
            raise gdb.GdbError(f"RAM has {length} frames, no frame {index:#x}")
        descriptor = pointer[index]
        state = atomic(descriptor["state"])
        kind = state & 0xFF
        name = self.KINDS[kind] if kind < len(self.KINDS) else f"of kind {kind}"
        locked = "locked" if state >> 31 else "not locked"
        counts = ", ".join(f"{atomic(descriptor[name])} {name}" for name in ("references", "mappings", "pins"))
        print(f"frame {index:#x} at p{index * PAGE_BYTES:#x}: {name}, {counts}, {locked}")


for command in (Ferry, Walk, Entry, Areas, Frame):
    command()
print("ferry walk ADDRESS | entry VALUE | areas | frame N        (help ferry)")
