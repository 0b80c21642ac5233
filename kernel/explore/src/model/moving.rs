//! Pages on the move: to the device, home, and home by a fault.
use super::broken::Broken;
use super::hardware::{is_answered, lowest, mark, members};
use super::state::{
    Cpu, Entry, FRAMES, Frame, Move, PAGES, Page, Phase, RAM_FRAMES, Set, State, Step, WORDS, Way, has,
};
use super::step::Protocol;

impl Protocol {
    /// The next step of a move; `None` where it must wait.
    pub(super) fn go_on_moving(self, next: &mut State, cpu: Cpu, mut pages: Move, phase: Phase) -> Option<Step> {
        let number = usize::from(cpu);
        let phase = match phase {
            Phase::WantAreas if next.writer.is_some() => return None,
            Phase::WantAreas => {
                next.readers |= 1 << cpu;
                Phase::WantTable
            }
            Phase::WantTable | Phase::WantTableAgain if next.table.is_some() => return None,
            Phase::WantTable => {
                next.table = Some(cpu);
                if self.is(Broken::MarksBeforeEntries) {
                    next.cores[number].request = next.marked;
                }
                Phase::Take(pages.fault.unwrap_or(0))
            }
            Phase::Take(page) => return Some(self.take(next, cpu, pages, page)),
            Phase::Request => {
                let early = std::mem::replace(&mut next.cores[number].request, pages.mine);
                let cpus = if self.is(Broken::MarksBeforeEntries) { early } else { next.marked };
                if self.is(Broken::MarkBeforeRequest) {
                    next.cores[number].request = 0;
                    mark(next, cpu, cpus, pages.mine);
                }
                Phase::Mark(cpus)
            }
            Phase::Mark(cpus) => {
                if self.is(Broken::MarkBeforeRequest) {
                    next.cores[number].request = pages.mine;
                } else {
                    mark(next, cpu, cpus, pages.mine);
                }
                if self.is(Broken::CopyBeforeAnswers) { Phase::Check } else { Phase::Await }
            }
            Phase::Await if !is_answered(next, cpu) => return None,
            Phase::Await => {
                next.cores[number].request = 0;
                Phase::Check
            }
            Phase::Check => {
                let is_free = |page: &Page| {
                    let frame = next.entries[usize::from(*page)].frame();
                    frame.is_some_and(|frame| !has(next.pinned, frame)) || self.is(Broken::NoReferenceCheck)
                };
                Phase::Copy(members(pages.mine).filter(is_free).fold(0, |left, page| left | 1 << page), 0)
            }
            Phase::Copy(0, _) => Phase::WantTableAgain,
            Phase::Copy(left, word) => copy(next, &mut pages, left, word)?,
            Phase::WantTableAgain => {
                next.table = Some(cpu);
                if self.is(Broken::FreeBeforeEntry) {
                    for page in members(pages.mine).filter(|page| pages.copied[usize::from(*page)].is_some()) {
                        next.used &= !(1 << next.entries[usize::from(page)].frame()?);
                    }
                }
                Phase::Write(0)
            }
            Phase::Write(freed) => write(next, &mut pages, freed),
            Phase::Free(0, _) => {
                next.readers &= !(1 << cpu);
                return Some(Step::User);
            }
            Phase::Free(freed, word) => match self.free(next, lowest(freed), word) {
                Some(word) => Phase::Free(freed, word),
                None => Phase::Free(freed & !(1 << lowest(freed)), 0),
            },
        };
        Some(Step::Move(pages, phase))
    }

    /// Takes the entry of a page, or passes by; then what follows the last.
    fn take(self, next: &mut State, cpu: Cpu, mut pages: Move, page: Page) -> Step {
        let entry = &mut next.entries[usize::from(page)];
        let is_in_other_hands = matches!(entry, Entry::Migrating(..));
        let taken = match (*entry, pages.to) {
            (Entry::Present(frame), Way::Device) | (Entry::Device(frame), Way::Ram) => Some(frame),
            (Entry::Migrating(frame, _), Way::Device) if self.is(Broken::TakesMigrating) => Some(frame),
            _ => None,
        };
        if let Some(frame) = taken {
            *entry = Entry::Migrating(frame, cpu);
            pages.mine |= 1 << page;
        }
        if pages.fault.is_none() && usize::from(page) + 1 < PAGES {
            return Step::Move(pages, Phase::Take(page + 1));
        }
        next.table = None;
        if pages.mine == 0 {
            next.readers &= !(1 << cpu);
            return match pages.fault {
                Some(page) if is_in_other_hands => Step::AwaitPage(page),
                _ => Step::User,
            };
        }
        let phase = match pages.to {
            Way::Device if self.is(Broken::NoFlush) => Phase::Check,
            Way::Device => Phase::Request,
            // Nothing to flush: no entry was present.
            Way::Ram => Phase::Copy(pages.mine, 0),
        };
        Step::Move(pages, phase)
    }
}

/// Copies one word of the lowest page that is left; before the first, a frame is allocated.
fn copy(next: &mut State, pages: &mut Move, left: Set, word: u8) -> Option<Phase> {
    let page = lowest(left);
    let others = left & !(1 << page);
    if word == 0 {
        let mut frames = match pages.to {
            Way::Device => RAM_FRAMES as Frame..FRAMES as Frame,
            Way::Ram => 0..RAM_FRAMES as Frame,
        };
        match (frames.find(|frame| !has(next.used, *frame)), pages.to) {
            (Some(frame), _) => {
                next.used |= 1 << frame;
                pages.copied[usize::from(page)] = Some(frame);
            }
            // The device is full: the page stays.
            (None, Way::Device) => return Some(Phase::Copy(others, 0)),
            // There is a frame for each page; the one that left is about to be freed.
            (None, Way::Ram) => return None,
        }
    }
    if let (Some(target), Some(source)) = (pages.copied[usize::from(page)], next.entries[usize::from(page)].frame()) {
        next.memory[usize::from(target)][usize::from(word)] = next.memory[usize::from(source)][usize::from(word)];
    }
    let word = word + 1;
    Some(if usize::from(word) == WORDS { Phase::Copy(others, 0) } else { Phase::Copy(left, word) })
}

/// Writes the entry of the lowest page, which names the copy, or what it named before where there is none.
fn write(next: &mut State, pages: &mut Move, freed: Set) -> Phase {
    let page = lowest(pages.mine);
    let old = next.entries[usize::from(page)];
    let (frame, freed) = match (pages.copied[usize::from(page)], old.frame()) {
        (Some(copy), Some(source)) => (copy, freed | 1 << source),
        (None, Some(source)) => (source, freed),
        // Only where somebody else has taken it away.
        (copy, None) => (copy.unwrap_or(0), freed),
    };
    let is_in_ram = usize::from(frame) < RAM_FRAMES;
    next.entries[usize::from(page)] = if is_in_ram { Entry::Present(frame) } else { Entry::Device(frame) };
    pages.mine &= !(1 << page);
    if pages.mine != 0 {
        return Phase::Write(freed);
    }
    next.table = None;
    Phase::Free(freed, 0)
}
