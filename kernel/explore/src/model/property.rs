//! What must hold in every state that can be reached.
use super::hardware::members;
use super::state::{
    CPUS, Entry, FRAMES, Frame, PAGES, Page, Phase, RAM_FRAMES, Set, State, Step, Unmapping, WORDS, has, value,
};
use super::step::{Action, Protocol};

/// No store is lost: what a page's frame holds, with the store that is on its way there, is what was stored last.
pub fn no_store_is_lost(state: &State) -> bool {
    (0..PAGES).all(|page| {
        let Some(frame) = state.entries[page].frame() else { return true };
        (0..WORDS).all(|word| {
            let writer = if word == 0 { 1 } else { 2 };
            let on_its_way = state.cores[writer].on_its_way.filter(|(target, _)| *target == frame);
            let found = on_its_way.map_or(state.memory[usize::from(frame)][word], |(_, value)| value);
            found == value(page as Page, state.stored[page][word])
        })
    })
}

/// No translation, and no store on its way, leads to a frame that was freed, or that holds another page by now.
pub fn no_translation_is_stale(state: &State) -> bool {
    state.cores.iter().all(|core| {
        let leads_right = |page: usize, frame: Frame| {
            has(state.used, frame)
                && usize::from(frame) < RAM_FRAMES
                && (0..PAGES).all(|other| other == page || state.entries[other].frame() != Some(frame))
        };
        let translations = (0..PAGES).all(|page| core.cached[page].is_none_or(|frame| leads_right(page, frame)));
        let stores = core.on_its_way.is_none_or(|(frame, value)| leads_right(usize::from(value >> 4) - 1, frame));
        translations && stores
    })
}

/// Each frame has one owner: an entry, or a CPU that works on it; one that has none is free, and none has two.
pub fn frames_have_one_owner(state: &State) -> bool {
    let mut owned: Set = 0;
    for frame in state.entries.iter().filter_map(|entry| entry.frame()) {
        if has(owned, frame) {
            return false;
        }
        owned |= 1 << frame;
    }
    for core in &state.cores {
        owned |= match core.step {
            Step::Move(pages, Phase::Write(freed) | Phase::Free(freed, _)) => {
                // What was written is owned by its entry.
                freed
                    | members(pages.mine)
                        .filter_map(|page| pages.copied[usize::from(page)])
                        .fold(0, |set, frame| set | 1 << frame)
            }
            Step::Move(pages, _) => pages.copied.iter().flatten().fold(0, |set, frame| set | 1 << frame),
            Step::Unmap(
                Unmapping::Request(frame)
                | Unmapping::Mark(frame, _)
                | Unmapping::Await(frame)
                | Unmapping::Free(frame, _),
            )
            | Step::Pinned(frame, _) => 1 << frame,
            _ => 0,
        };
    }
    owned == state.used
}

/// A free device frame shows nothing of who had it.
pub fn free_device_frames_are_zero(state: &State) -> bool {
    (RAM_FRAMES..FRAMES).all(|frame| has(state.used, frame as Frame) || state.memory[frame] == [0; WORDS])
}

/// Nobody waits for ever: somebody can go on, or everybody is done.
pub fn nobody_waits_for_ever(protocol: Protocol, state: &State) -> bool {
    let is_done = (0..CPUS).all(|cpu| {
        let core = &state.cores[cpu];
        core.step == Step::User && core.tasks == [None; 2] && core.stores == 0 && core.marks | core.taken == 0
    });
    // What a CPU caches on its own ends no wait.
    let ends_waits = Protocol::actions().filter(|action| !matches!(action, Action::Fill(..)));
    is_done || ends_waits.into_iter().any(|action| protocol.after(state, action).is_some())
}

/// In the end nobody holds anything, and no entry is in anybody's hands.
pub fn nothing_is_left_over(state: &State) -> bool {
    let is_quiet = state.cores.iter().all(|core| core.step == Step::User);
    !is_quiet
        || state.readers == 0
            && state.writer.is_none()
            && state.table.is_none()
            && state.pinned == 0
            && state.entries.iter().all(|entry| !matches!(entry, Entry::Migrating(..)))
}
