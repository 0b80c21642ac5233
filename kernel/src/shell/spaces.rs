//! Commands about whole address spaces, and about the flushes that keep CPUs honest.
use super::desk::{Desk, parse};
use super::{CommandResult, ShellError};
use crate::memory::{self, AddressSpace, manager};
use ferry_mm::space::SpaceId;

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

pub(super) fn break_flush(desk: &mut Desk) -> CommandResult {
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
