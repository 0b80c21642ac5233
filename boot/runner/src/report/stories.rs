//! The stories: what to look at in each scenario, and why. Steps are those that the kernel's program tells of.
use ferry_protocol::options::Scenario;

/// What stands beside the timeline.
#[derive(Clone, Copy, Debug)]
pub struct Story {
    /// A few words.
    pub title: &'static str,
    /// What happens, in a paragraph.
    pub about: &'static str,
    /// What to look at, and why.
    pub look: &'static str,
    /// Title and text of each step.
    pub steps: &'static [(&'static str, &'static str)],
}

/// The story of a scenario.
pub fn of(scenario: Scenario) -> Story {
    match scenario {
        Scenario::ThereAndBack => THERE_AND_BACK,
        Scenario::CopyOnWrite => COPY_ON_WRITE,
        Scenario::PinnedPage => PINNED_PAGE,
        Scenario::SwapThenMigrate => SWAP_THEN_MIGRATE,
        Scenario::PingPong => PING_PONG,
        Scenario::Eviction => EVICTION,
        Scenario::MissingFlush => MISSING_FLUSH,
    }
}

/// The demo's.
pub const DEMO: Story = Story {
    title: "A file there and back",
    about: "Ferry copies a file into fresh memory, moves every page of it into the memory of a PCI device, lets the device \
            invert all bytes there, and touches each page again, so that it comes home by a page fault.",
    look: "Drag the timeline. The pages on the left turn from RAM to device and back, while frames in the middle empty and fill \
           again. Where the device is smaller than the file, there are several rounds.",
    steps: &[
        ("Fill the memory", "Each first store to a page faults: the entry is empty. The page gets a zeroed RAM frame."),
        (
            "Migrate to the device",
            "All entries become Migrating, then one flush makes every CPU forget them. Pages are copied to device frames, and \
             their entries say where they are. Pages for which the device has no room get their old entry back.",
        ),
        ("The device works", "The device inverts the bytes in its own memory. No entry changes, no CPU is involved."),
        ("Touch every page", "Each access faults on an entry that says Device, and brings that one page home."),
        ("Tear down", "The next round begins, or the space goes: frames and tables become free."),
    ],
};

const THERE_AND_BACK: Story = Story {
    title: "There and back",
    about: "Eight pages go to a device and come home. Six were written, one was only read, one was never touched. The device \
            inverts their bytes while it has them. Three pages then come home because somebody reads them, the rest by a call.",
    look: "Click the first page and step with the arrow keys. Its level-1 entry goes from present to Migrating to Device, and \
           back to present in another frame. The entry is the only thing that remembers where the page is.",
    steps: &[
        (
            "Eight pages, three kinds",
            "Each store to a fresh page faults once and gets a zeroed frame. The page that is only read gets the zero page, \
             which all untouched pages share. The last page is not touched: its entry stays empty.",
        ),
        (
            "To the device",
            "Collect: all eight entries become Migrating, then one flush. Unmap: nobody else uses the pages. Copy: six pages \
             are copied to device frames; the empty one and the zero page need no copy, as a free device frame is zero. \
             Finalize: each entry says Device, and the RAM frames are free.",
        ),
        ("The device works", "It inverts the bytes where they are. Nothing changes in RAM, and no entry does."),
        (
            "Home by fault",
            "The program reads three pages. The CPU finds entries that are not present and faults; the kernel brings the page \
             home: a RAM frame, a copy, a present entry. The device frame is cleared, then freed. There is nothing to flush: \
             CPUs never cache an entry that is not present.",
        ),
        (
            "Home by call",
            "The rest come home in one call, without a fault. The read that follows finds its page in RAM.",
        ),
        ("Gone", "The space is torn down. Every frame, device frame and table is free again."),
    ],
};

const COPY_ON_WRITE: Story = Story {
    title: "Copy on write",
    about: "A space is forked: parent and child share every page, read-only, until one of them stores. Then the one that stores \
            gets a copy of its own. Sharing goes on while pages are on the device.",
    look: "Shared pages have two entries that name one frame: click a page, and see the same frame in both spaces. Watch a store \
           break that: a fault, a copy (the arrow between two frames), and one of the two entries names a new frame.",
    steps: &[
        ("The parent's pages", "Six stores, six faults, six frames."),
        (
            "Fork",
            "The child gets tables and entries of its own, but no page: its entries name the parent's frames. Both sides lose \
             leave to write. One flush makes sure that no CPU still may.",
        ),
        (
            "The parent stores",
            "Page 1 is shared, so the store faults. The parent gets a copy, and its entry is writable again. The child keeps the old \
             frame, which is now its alone.",
        ),
        (
            "The child reads, then stores",
            "Page 1 reads as it was before the parent's store. A store to page 2 gives the child a copy.",
        ),
        (
            "Shared pages migrate",
            "The parent's pages go to the device. Where a page is shared, the migration takes both entries, or the page would have \
             to stay: afterwards both name one device frame.",
        ),
        (
            "The child touches a page",
            "It brings home a copy of its own. The parent's entry still names the device frame: a fault waits for nobody else.",
        ),
        ("The child goes", "What only the child had is freed. The parent's pages come home when they are touched."),
        ("Gone", "The parent goes, too. Nothing is left."),
    ],
};

const PINNED_PAGE: Story = Story {
    title: "A pinned page stays",
    about: "Somebody uses page 2 by its physical address, as a device that does DMA would: the page is pinned. A migration must not \
            move it, and does not. The other five pages go.",
    look: "Page 2 becomes Migrating with the others, because only then can nobody take another reference. The check in the phase Unmap \
           finds the pin, and the entry gets its old value back, bit for bit. The list of migrations names the reason.",
    steps: &[
        ("Six pages", "Written once each."),
        ("Page 2 is pinned", "Its frame has one reference more than it has mappings. That is all a pin is."),
        (
            "The migration",
            "All six entries become Migrating. Then references are counted: page 2 has too many, so it is given up. The report says \
             “pinned”; five pages moved.",
        ),
        (
            "A store to the pinned page",
            "It is in RAM, and its entry is as it was, but the CPU was told to forget it, so it walks the tables \
          again. No fault.",
        ),
        (
            "The pin ends",
            "A second migration takes the page that stayed; the others are on the device already, and say so.",
        ),
        ("Home again", "The read brings back what was stored while the others were away."),
        ("Gone", "The space is torn down."),
    ],
};

const SWAP_THEN_MIGRATE: Story = Story {
    title: "Swapped out, then asked to migrate",
    about: "Three of six pages are on the swap disk when all six shall go to the device. What is on a disk cannot be copied to a device, so \
            the kernel reads those pages in first, and only then begins the migration.",
    look: "Select page 1. Its entry says Swap and a slot; then, before any entry becomes Migrating, the page is read into a RAM frame and \
           mapped. The migration itself never waits for the disk, and holds no lock while the kernel does.",
    steps: &[
        ("Six pages", "Written once each."),
        (
            "Three are swapped out",
            "Entries that are present must be flushed before a page can leave. Each page is written to its slot, its entry says which, and \
             its frame is free.",
        ),
        (
            "The migration",
            "First the swapped pages come in: a frame, a read from the disk, a present entry. Then all six entries become Migrating and the \
             pages go to the device.",
        ),
        ("Home again", "Each page comes home by a fault, with the bytes that were stored before it was swapped out."),
        ("Gone", "Frames, device frames and slots are free again."),
    ],
};

const PING_PONG: Story = Story {
    title: "Ping-pong",
    about: "Four pages go to the device and are touched by the CPU at once, again and again. Nothing is wrong, and everything is slow: \
            each round pays for a migration there and four faults back.",
    look: "Open the list of migrations: every round costs about the same, and none of it was useful. Frames are taken and freed in turn; \
           the frame freed last is taken first, so the same few are used again.",
    steps: &[
        ("Four pages", "Written once each."),
        (
            "Round 1",
            "There in one call, home in four faults. Compare the time of the call with that of the four faults.",
        ),
        ("Round 2", "The same again. Each page's history grows."),
        (
            "Round 3",
            "Reading brings a page home; the store that follows needs no second fault, as the page came home writable.",
        ),
        ("Round 4", "A system that sees this should leave the page in one place."),
        ("Round 5", "The last one."),
        ("Gone", "The space is torn down."),
    ],
};

const EVICTION: Story = Story {
    title: "Eviction",
    about: "A device must give its memory back, because it is removed or somebody else needs it. The kernel goes over its frames, finds \
            who maps each, and brings every page home, for all spaces at once.",
    look: "Eviction starts from the device frame, not from an address. The frame knows the page's origin, and that leads to the entry in \
           each space. A shared page comes home once and stays shared.",
    steps: &[
        ("Eight pages", "Written once each, in the first space."),
        (
            "Shared, and sent away",
            "A fork makes a second space. The store to page 0 gives the first space a copy. Then the first space's \
          eight pages go to the device, seven of them with the second space's entries.",
        ),
        (
            "Eviction",
            "Frame by frame: take all entries, copy home, write the new entries, clear and free the device frame. The device hands \
          out no frame meanwhile.",
        ),
        (
            "Everybody still sees the right bytes",
            "Both spaces read all their pages, and nothing faults: they are home already.",
        ),
        ("Gone", "Both spaces are torn down. The device is empty."),
    ],
};

const MISSING_FLUSH: Story = Story {
    title: "What a missing flush does",
    about: "The same fork happens twice. The first time, the kernel makes the CPU forget its writable translations. The second time that \
            flush is left out on purpose. The page tables are right both times. The result is not.",
    look: "Select page 2 at step 5. Its entry says read-only, but the list of what TLBs may still hold has the older, writable translation. \
           The store does not fault. It goes into the frame that the child shares, and the child reads what it must never see.",
    steps: &[
        ("Four pages", "Written once each: the CPU now remembers writable translations."),
        ("A fork with its flush", "Entries become read-only, and the flush makes the CPU forget that they were not."),
        (
            "As it must be",
            "The parent's store to page 1 faults and gets a copy. The child reads the old byte, 0xaa. The two are apart.",
        ),
        (
            "Once more",
            "The child goes. The parent stores to pages 2 and 3, which become writable in place; the CPU remembers that.",
        ),
        (
            "A fork whose flush is lost",
            "The entries become read-only as before. The flush is not carried out: the CPU goes on with what it remembers.",
        ),
        (
            "A store that should have faulted",
            "The entry of page 2 forbids it. The CPU does not look: it uses the writable translation that it still holds. No fault, no \
             copy. The byte 0xbb lands in the shared frame.",
        ),
        (
            "The child sees it",
            "The child reads page 2 and gets 0xbb, which its parent stored after the fork. Two address spaces are not apart any more. \
             That is why a flush is a value that must not be dropped.",
        ),
        ("Gone", "Both spaces are torn down."),
    ],
};
