//! Contexts, the walk through a device page table, and the device's TLB.
//!
//! Invariants:
//! 1. The TLB keeps a translation until it is told to forget it, or has no room; never does it notice by itself that an
//!    entry has changed. So an invalidation that the guest forgot shows as wrong bytes.
//! 2. Where an entry allows too little, the table is walked again: an entry that got stronger needs no invalidation.
//! 3. A word of the table is read once, checked, then used.
use std::collections::HashMap;

use ferry_device::bar::WordIndex;
use ferry_device::context::MAX_CONTEXTS;
use ferry_device::page_table::{FRAME_ENTRIES, Rights, TableEntry, Target};
use ferry_device::request::Access;
use ferry_device::{Bar, ContextId, FrameIndex, PageSpan, Status, VirtualPage};

/// Translations that the TLB has room for; one more makes it forget all of them.
const TLB_ENTRIES: usize = 4096;

/// An attached context.
#[derive(Clone, Copy, Debug)]
struct Context {
    window: PageSpan,
    root: FrameIndex,
}

/// The device page table is broken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Broken;

/// Contexts and what is known of their tables.
#[derive(Default)]
pub(super) struct Translations {
    contexts: [Option<Context>; MAX_CONTEXTS],
    tlb: HashMap<(ContextId, VirtualPage), TableEntry>,
}

impl Translations {
    pub(super) fn attach(&mut self, context: ContextId, window: PageSpan, root: FrameIndex) -> Result<(), Status> {
        let place = &mut self.contexts[context.number()];
        if place.is_some() {
            return Err(Status::BadContext);
        }
        *place = Some(Context { window, root });
        Ok(())
    }

    pub(super) fn detach(&mut self, context: ContextId) -> Result<(), Status> {
        self.contexts[context.number()].take().ok_or(Status::BadContext)?;
        self.tlb.retain(|(of, _), _| *of != context);
        Ok(())
    }

    /// The pages that an attached context may reach.
    pub(super) fn window(&self, context: ContextId) -> Result<PageSpan, Status> {
        self.contexts[context.number()].map(|context| context.window).ok_or(Status::BadContext)
    }

    pub(super) fn forget(&mut self, context: ContextId, span: PageSpan) {
        self.tlb.retain(|(of, page), _| *of != context || span.index_of(*page).is_none());
    }

    /// Where a page is, for an access; `None` where the guest must be asked.
    pub(super) fn translate(
        &mut self,
        bar: &Bar,
        context: ContextId,
        page: VirtualPage,
        access: Access,
    ) -> Result<Option<Target>, Broken> {
        if let Some(entry) = self.tlb.get(&(context, page)).filter(|entry| allows(entry, access)) {
            return Ok(Some(entry.target));
        }
        let Some(entry) = self.walk(bar, context, page)?.filter(|entry| allows(entry, access)) else { return Ok(None) };
        if self.tlb.len() >= TLB_ENTRIES {
            self.tlb.clear();
        }
        self.tlb.insert((context, page), entry);
        Ok(Some(entry.target))
    }

    fn walk(&self, bar: &Bar, context: ContextId, page: VirtualPage) -> Result<Option<TableEntry>, Broken> {
        let Context { window, root } = self.contexts[context.number()].ok_or(Broken)?;
        let index = window.index_of(page).ok_or(Broken)?;
        let load = |table, index| {
            let word = bar.load_word(table, WordIndex::low_bits_of(index)).map_err(|_| Broken)?;
            TableEntry::decode(word).map_err(|_| Broken)
        };
        bar.begin_reads();
        match load(root, index / FRAME_ENTRIES)? {
            None => Ok(None),
            Some(TableEntry { target: Target::Local(leaf), rights: Rights::Read }) => load(leaf, index),
            Some(_) => Err(Broken),
        }
    }
}

/// Whether an entry is enough for an access.
fn allows(entry: &TableEntry, access: Access) -> bool {
    let needed = match access {
        Access::Read => Rights::Read,
        Access::Write => Rights::Write,
        Access::Atomic => Rights::Atomic,
    };
    entry.rights >= needed
}
