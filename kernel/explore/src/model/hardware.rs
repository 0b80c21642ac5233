//! The machine under the protocol: its first state, translations, stores, and the marks of a flush.
use super::state::{
    CPUS, Core, Cpu, DEVICE_FRAMES, Entry, FRAMES, Frame, Move, PAGES, Page, Phase, RAM_FRAMES, Set, State, Step, Task,
    Unmapping, WORDS, Way, has, value, word_of,
};

/// The first state of a cast: every page in RAM, every CPU in the space.
pub(super) fn first(tasks: [[Option<Task>; 2]; CPUS], stores: [u8; CPUS]) -> State {
    let core = |cpu: usize| Core {
        step: Step::User,
        tasks: tasks[cpu],
        stores: stores[cpu],
        cached: [None; PAGES],
        on_its_way: None,
        has_root: true,
        request: 0,
        marks: 0,
        taken: 0,
    };
    let mut memory = [[0; WORDS]; FRAMES];
    for (page, words) in (0..PAGES as Page).zip(&mut memory) {
        *words = [value(page, 0); WORDS];
    }
    const { assert!(RAM_FRAMES == PAGES && DEVICE_FRAMES > 0) };
    State {
        entries: std::array::from_fn(|page| Entry::Present(page as Frame)),
        memory,
        used: (1 << RAM_FRAMES) - 1,
        pinned: 0,
        stored: [[0; WORDS]; PAGES],
        cores: std::array::from_fn(core),
        marked: (1 << CPUS) - 1,
        readers: 0,
        writer: None,
        table: None,
    }
}

/// The first step of a move.
pub(super) fn start_move(to: Way, fault: Option<Page>) -> Step {
    Step::Move(Move { to, fault, mine: 0, copied: [None; PAGES] }, Phase::WantAreas)
}

pub(super) fn changed(state: &State, change: impl FnOnce(&mut State)) -> State {
    let mut next = *state;
    change(&mut next);
    next
}

/// The members of a set.
pub(super) fn members(set: Set) -> impl Iterator<Item = u8> {
    (0..u8::BITS as u8).filter(move |member| has(set, *member))
}

pub(super) fn lowest(set: Set) -> u8 {
    set.trailing_zeros() as u8
}

/// A translation that nobody asked for. CPU 0 only moves pages: what it would cache, it would not use.
pub(super) fn fill(state: &State, cpu: Cpu, page: Page) -> Option<State> {
    let core = &state.cores[usize::from(cpu)];
    let Entry::Present(frame) = state.entries[usize::from(page)] else { return None };
    let may = cpu != 0 && core.has_root && core.cached[usize::from(page)].is_none();
    may.then(|| changed(state, |next| next.cores[usize::from(cpu)].cached[usize::from(page)] = Some(frame)))
}

pub(super) fn drain(next: &mut State, cpu: Cpu) {
    if let Some((frame, value)) = next.cores[usize::from(cpu)].on_its_way.take() {
        next.memory[usize::from(frame)][word_of(cpu)] = value;
    }
}

pub(super) fn forget(next: &mut State, cpu: Cpu, pages: Set) {
    for page in members(pages) {
        next.cores[usize::from(cpu)].cached[usize::from(page)] = None;
    }
}

pub(super) fn leave_root(next: &mut State, cpu: Cpu) {
    drain(next, cpu);
    forget(next, cpu, (1 << PAGES) - 1);
    next.cores[usize::from(cpu)].has_root = false;
}

/// A store to a page, where the CPU has the room for it: through a cached translation, or by a walk, or a fault.
pub(super) fn store(state: &State, cpu: Cpu, page: Page) -> Option<State> {
    let core = &state.cores[usize::from(cpu)];
    if core.stores == 0 || !core.has_root || core.on_its_way.is_some() {
        return None;
    }
    let frame = match (core.cached[usize::from(page)], state.entries[usize::from(page)]) {
        (Some(frame), _) | (None, Entry::Present(frame)) => Some(frame),
        _ => None,
    };
    Some(changed(state, |next| {
        let core = &mut next.cores[usize::from(cpu)];
        match (frame, state.entries[usize::from(page)]) {
            (Some(frame), _) => {
                let stored = &mut next.stored[usize::from(page)][word_of(cpu)];
                *stored += 1;
                core.cached[usize::from(page)] = Some(frame);
                core.on_its_way = Some((frame, value(page, *stored)));
                core.stores -= 1;
            }
            // No area: the program gives up.
            (None, Entry::Empty) => core.stores -= 1,
            (None, _) => core.step = start_move(Way::Ram, Some(page)),
        }
    }))
}

/// Marks the CPUs of a request; the own one forgets at once.
pub(super) fn mark(next: &mut State, cpu: Cpu, cpus: Set, pages: Set) {
    for target in members(cpus).filter(|target| *target != cpu) {
        next.cores[usize::from(target)].marks |= 1 << cpu;
    }
    drain(next, cpu);
    forget(next, cpu, pages);
}

pub(super) fn is_answered(state: &State, cpu: Cpu) -> bool {
    state.cores.iter().all(|core| !has(core.marks | core.taken, cpu))
}

/// Whether somebody who unmaps is about to free a frame.
pub(super) fn unmaps(state: &State, frame: Frame) -> bool {
    state.cores.iter().any(|core| match core.step {
        Step::Unmap(
            Unmapping::Request(there) | Unmapping::Mark(there, _) | Unmapping::Await(there) | Unmapping::Free(there, _),
        ) => there == frame,
        _ => false,
    })
}
