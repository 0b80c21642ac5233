//! The steps of the protocol: what each CPU may do next, one access to something shared at a time.
//!
//! | what | its steps | the source |
//! |---|---|---|
//! | migration, return | areas, table, entries, flush, check, copy, entries, free | `kernel/mm/src/migrate` |
//! | fault on a page of the device | the same for one page, without a flush; interrupts are off | `kernel/mm/src/space/fault.rs` |
//! | unmap | areas alone, entry, flush, free | `kernel/mm/src/space/map.rs` |
//! | pin | reference under the table's lock | `kernel/mm/src/space/pin.rs` |
//! | enter, leave | mark and root | `kernel/mm/src/space/mod.rs` |
//! | flush | request, marks; marks taken, answer | `kernel/src/arch/cpus/shootdown.rs` |
//!
//! Whoever waits is not enabled until its wait is over, so a state in which nobody is enabled shows a wait for ever. And as every
//! CPU has a bounded number of tasks and stores, no run is endless.
use super::broken::Broken;
use super::hardware::{changed, drain, fill, forget, leave_root, members, start_move, store, unmaps};
use super::state::{
    CPUS, Cpu, Entry, Frame, Move, PAGES, Page, Phase, RAM_FRAMES, State, Step, Task, Unmapping, WORDS, Way, value,
    word_of,
};

/// One step of one CPU.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Action {
    /// It caches a translation that nobody asked for.
    Fill(Cpu, Page),
    /// Its store reaches memory.
    Drain(Cpu),
    /// It takes the marks of others' flushes.
    TakeMarks(Cpu),
    /// It forgets what they ask for, and answers.
    Answer(Cpu),
    /// It stores to a page, or faults there.
    Store(Cpu, Page),
    /// It begins its next task.
    Begin(Cpu),
    /// It goes on with what it is in.
    Go(Cpu),
}

/// The protocol, right or with a mistake in it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Protocol {
    /// The mistake.
    pub broken: Option<Broken>,
}

impl Protocol {
    /// Whether this is the protocol's mistake.
    pub(super) fn is(self, broken: Broken) -> bool {
        self.broken == Some(broken)
    }

    /// The actions that there are, enabled or not.
    pub fn actions() -> impl Iterator<Item = Action> {
        (0..CPUS as Cpu).flat_map(|cpu| {
            let of_cpu =
                [Action::Go, Action::Begin, Action::Drain, Action::TakeMarks, Action::Answer].map(|kind| kind(cpu));
            let of_page = (0..PAGES as Page).flat_map(move |page| [Action::Store(cpu, page), Action::Fill(cpu, page)]);
            of_cpu.into_iter().chain(of_page)
        })
    }

    /// The state after an action; `None` where it is not enabled.
    pub fn after(self, state: &State, action: Action) -> Option<State> {
        let core = |cpu: Cpu| &state.cores[usize::from(cpu)];
        match action {
            Action::Fill(cpu, page) => fill(state, cpu, page),
            Action::Drain(cpu) => core(cpu).on_its_way.map(|_| changed(state, |next| drain(next, cpu))),
            Action::Answer(cpu) => (core(cpu).taken != 0).then(|| self.answer(state, cpu)),
            // Nothing comes between: the handler of the interrupt is not interrupted.
            Action::TakeMarks(cpu) | Action::Store(cpu, _) | Action::Begin(cpu) | Action::Go(cpu)
                if core(cpu).taken != 0 =>
            {
                None
            }
            Action::TakeMarks(cpu) => {
                let takes = core(cpu).marks != 0 && self.answers_in(state, cpu);
                takes.then(|| {
                    changed(state, |next| {
                        let core = &mut next.cores[usize::from(cpu)];
                        (core.taken, core.marks) = (core.marks, 0);
                    })
                })
            }
            Action::Begin(cpu) if core(cpu).step == Step::User => {
                core(cpu).tasks[0].map(|task| self.begin(state, cpu, task))
            }
            Action::Store(cpu, page) if core(cpu).step == Step::User => store(state, cpu, page),
            Action::Go(cpu) if core(cpu).step != Step::User => self.go(state, cpu),
            Action::Begin(_) | Action::Store(..) | Action::Go(_) => None,
        }
    }

    /// Whether a CPU answers others where it stands: everywhere, but for a fault handler that waits for nobody.
    fn answers_in(self, state: &State, cpu: Cpu) -> bool {
        let waits = match state.cores[usize::from(cpu)].step {
            Step::AwaitPage(_) => true,
            Step::Move(Move { fault: Some(_), .. }, phase) => match phase {
                Phase::WantAreas | Phase::WantTable | Phase::WantTableAgain => true,
                _ => return false,
            },
            _ => false,
        };
        !(waits && self.is(Broken::DeafWaits))
    }

    fn answer(self, state: &State, cpu: Cpu) -> State {
        changed(state, |next| {
            let taken = std::mem::take(&mut next.cores[usize::from(cpu)].taken);
            let asked = members(taken).fold(0, |all, from| all | next.cores[usize::from(from)].request);
            forget(next, cpu, asked);
            if !self.is(Broken::AnswerBeforeStores) {
                drain(next, cpu);
            }
        })
    }

    fn begin(self, state: &State, cpu: Cpu, task: Task) -> State {
        changed(state, |next| {
            let core = &mut next.cores[usize::from(cpu)];
            core.tasks = [core.tasks[1], None];
            core.step = match task {
                Task::Migrate => start_move(Way::Device, None),
                Task::Return => start_move(Way::Ram, None),
                Task::Unmap => Step::Unmap(Unmapping::WantAreas),
                Task::Pin => Step::WantPin,
                Task::Reenter => Step::Left,
            };
            match task {
                Task::Reenter if self.is(Broken::UnmarkBeforeRoot) => next.marked &= !(1 << cpu),
                Task::Reenter => leave_root(next, cpu),
                _ => {}
            }
        })
    }

    /// The next step of whatever the CPU is in; `None` where it must wait.
    fn go(self, state: &State, cpu: Cpu) -> Option<State> {
        let mut next = *state;
        let (me, number) = (1 << cpu, usize::from(cpu));
        let step = match state.cores[number].step {
            Step::User => return None,
            Step::Move(pages, phase) => self.go_on_moving(&mut next, cpu, pages, phase)?,
            Step::Unmap(how_far) => self.go_on_unmapping(&mut next, cpu, how_far)?,
            Step::AwaitPage(page) => match state.entries[usize::from(page)] {
                Entry::Migrating(..) => return None,
                _ => Step::User,
            },
            Step::WantPin if state.table.is_some() || state.writer.is_some() => return None,
            Step::WantPin => match state.entries[0] {
                Entry::Present(frame) => {
                    drain(&mut next, cpu);
                    next.pinned |= 1 << frame;
                    Step::Pinned(frame, 1)
                }
                _ => Step::User,
            },
            Step::Pinned(frame, 0) => {
                next.pinned &= !(1 << frame);
                if state.entries.iter().all(|entry| entry.frame() != Some(frame)) && !unmaps(state, frame) {
                    next.used &= !(1 << frame);
                }
                Step::User
            }
            Step::Pinned(frame, stores) => {
                let stored = &mut next.stored[0][word_of(cpu)];
                *stored += 1;
                next.memory[usize::from(frame)][word_of(cpu)] = value(0, *stored);
                Step::Pinned(frame, stores - 1)
            }
            Step::Left => {
                if self.is(Broken::UnmarkBeforeRoot) {
                    leave_root(&mut next, cpu);
                } else {
                    next.marked &= !me;
                }
                Step::Outside
            }
            Step::Outside => {
                if self.is(Broken::RootBeforeMark) {
                    next.cores[number].has_root = true;
                } else {
                    next.marked |= me;
                }
                Step::Entering
            }
            Step::Entering => {
                next.marked |= me;
                next.cores[number].has_root = true;
                Step::User
            }
        };
        next.cores[number].step = step;
        Some(next)
    }

    /// Frees a frame; one of the device is cleared first, a word at a time: then the next word is returned.
    pub(super) fn free(self, next: &mut State, frame: Frame, word: u8) -> Option<u8> {
        if usize::from(frame) >= RAM_FRAMES && usize::from(word) < WORDS && !self.is(Broken::NoClear) {
            next.memory[usize::from(frame)][usize::from(word)] = 0;
            return Some(word + 1);
        }
        next.used &= !(1 << frame);
        None
    }
}
