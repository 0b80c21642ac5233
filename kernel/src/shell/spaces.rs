//! Commands about whole address spaces, and about the flushes that keep CPUs honest.
use super::desk::{Desk, parse};
use super::{CommandResult, ShellError};
use crate::arch::layout::DIRECT_MAP;
use crate::arch::probe;
use crate::memory::{self, AddressSpace, manager};
use ferry_mm::address::PAGE_BYTES;
use ferry_mm::space::SpaceId;
use x86_64::VirtAddr;

pub(super) fn fork(desk: &mut Desk) -> CommandResult {
    let child = desk.space.fork()?;
    let (parent, child) = (desk.space.id().number(), child.id().number());
    desk.say(format_args!(
        "space {child} is a copy of space {parent}, which this CPU stays in; `space {child}` goes there"
    ));
    Ok(())
}

pub(super) fn list(desk: &mut Desk) -> CommandResult {
    for space in manager().spaces() {
        let here = if space.id() == desk.space.id() { ", this CPU is in it" } else { "" };
        let root = space.root().start_address().as_u64();
        desk.say(format_args!(
            "space {}: root table p{root:#x}, {} pages charged{here}",
            space.id().number(),
            space.resident().charged()
        ));
    }
    Ok(())
}

pub(super) fn go_to(desk: &mut Desk, number: &str) -> CommandResult {
    let space = find(number)?;
    memory::enter(space);
    desk.space = space;
    desk.say(format_args!(
        "this CPU is in space {}; what it had cached of the other one is forgotten",
        space.id().number()
    ));
    Ok(())
}

pub(super) fn destroy(desk: &mut Desk, number: &str) -> CommandResult {
    let space = find(number)?;
    if space.id() == desk.space.id() {
        return Err(ShellError::InThatSpace { space: space.id().number() });
    }
    space.destroy()?;
    desk.say(format_args!("space {number} is gone"));
    Ok(())
}

fn find(word: &str) -> Result<AddressSpace, ShellError> {
    let id = u16::try_from(parse(word)?).ok().and_then(SpaceId::new);
    id.and_then(|id| manager().space(id)).ok_or_else(|| ShellError::NoSuchSpace { word: word.into() })
}

/// RAM that every machine has, above the addresses of old devices: pages for [`widen_translation_cache`].
const WIDENING_START: VirtAddr = VirtAddr::new_truncate(DIRECT_MAP.start().as_u64() + (1 << 20));
const WIDENING_PAGES: u64 = 1 << 12;

/// From the 64 places that QEMU's cache has at least to one for each of these pages.
const WIDENING_TURNS: u32 = 7;

/// Makes the CPU's cache of translations as large as it gets, so that what is remembered stays so.
///
/// QEMU's has a place for each page number, modulo its size, so another page can push one out; and it doubles its size at a
/// flush that finds most places used (`tlb_mmu_resize_locked` in QEMU's `accel/tcg/cputlb.c`). On hardware this does no harm.
fn widen_translation_cache(space: AddressSpace) {
    for _ in 0..WIDENING_TURNS {
        for page in 0..WIDENING_PAGES {
            // What cannot be read takes no place, and that is all there is to it.
            let _ = probe::load(WIDENING_START + page * PAGE_BYTES);
        }
        memory::enter(space);
    }
}

pub(super) fn break_flush(desk: &mut Desk) -> CommandResult {
    widen_translation_cache(desk.space);
    desk.broken = true;
    desk.say(format_args!("flushes are lost from now on: what this CPU has cached stays in use until `repair flush`"));
    Ok(())
}

pub(super) fn repair_flush(desk: &mut Desk) -> CommandResult {
    desk.broken = false;
    // Loading the root makes the CPU forget the lower half (Intel SDM 3A 4.10.4.1).
    memory::enter(desk.space);
    desk.say(format_args!("flushes are done again, and this CPU has forgotten what it had cached"));
    Ok(())
}
