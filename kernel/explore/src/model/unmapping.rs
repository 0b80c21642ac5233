//! The unmapping of page 0: areas alone, entry, flush, frame.
use super::broken::Broken;
use super::hardware::{is_answered, mark};
use super::state::{Cpu, Entry, Set, State, Step, Unmapping, has};
use super::step::Protocol;

/// The set of page 0.
const PAGE_0: Set = 1;

impl Protocol {
    /// The next step; `None` where it must wait.
    pub(super) fn go_on_unmapping(self, next: &mut State, cpu: Cpu, how_far: Unmapping) -> Option<Step> {
        let number = usize::from(cpu);
        let how_far = match how_far {
            Unmapping::WantAreas if self.is(Broken::UnmapWithoutAreas) => Unmapping::Zap,
            Unmapping::WantAreas if next.writer.is_some() || next.readers != 0 => return None,
            Unmapping::WantAreas => {
                next.writer = Some(cpu);
                Unmapping::Zap
            }
            Unmapping::Zap => match std::mem::replace(&mut next.entries[0], Entry::Empty) {
                Entry::Present(frame) | Entry::Migrating(frame, _) => Unmapping::Request(frame),
                Entry::Device(frame) => Unmapping::Free(frame, 0),
                Entry::Empty => return Some(done(next)),
            },
            Unmapping::Request(frame) => {
                next.cores[number].request = PAGE_0;
                Unmapping::Mark(frame, next.marked)
            }
            Unmapping::Mark(frame, cpus) => {
                mark(next, cpu, cpus, PAGE_0);
                if self.is(Broken::FreeBeforeAnswers) { Unmapping::Free(frame, 0) } else { Unmapping::Await(frame) }
            }
            Unmapping::Await(_) if !is_answered(next, cpu) => return None,
            Unmapping::Await(frame) => {
                next.cores[number].request = 0;
                Unmapping::Free(frame, 0)
            }
            // Somebody who uses it by its address frees it.
            Unmapping::Free(frame, _) if has(next.pinned, frame) => return Some(done(next)),
            Unmapping::Free(frame, word) => match self.free(next, frame, word) {
                Some(word) => Unmapping::Free(frame, word),
                None => return Some(done(next)),
            },
        };
        Some(Step::Unmap(how_far))
    }
}

fn done(next: &mut State) -> Step {
    next.writer = None;
    Step::User
}
