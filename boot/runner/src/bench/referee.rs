//! What the referee saw, held against what the kernel counted.
//!
//! The referee (`boot/referee`) is a plugin of QEMU that counts from outside. It knows of each window where it begins and ends, and
//! nothing of what is measured there; the windows come in the kernel's order.
//!
//! Two numbers are not the same thing on both sides, by a known amount:
//! 1. A window of the kernel contains the call of what is measured; how many instructions that takes is learnt from the loop of known
//!    length, on both sides.
//! 2. An instruction that faults is begun twice, which the referee sees, and completed once, which the clock counts. So the
//!    referee has one instruction more for each page fault.
use super::failure::BenchFailure;
use super::figures::{BOOT, KNOWN_INTERRUPTS, KNOWN_LOOP};
use super::session::{Counts, Window};

/// Instructions at one address, under one chain of calls.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// How many.
    pub instructions: u64,
    /// Their address, then those of the calls, innermost first.
    pub addresses: Vec<u64>,
}

/// What the referee saw of one window.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Seen {
    /// What it counted; of page faults it knows nothing.
    pub counts: Counts,
    /// Where the instructions are, where that was asked for.
    pub profile: Vec<Place>,
}

/// Everything in the referee's file.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Sight {
    /// Bytes of the BAR, as the referee has worked out.
    pub bar_bytes: u64,
    /// The windows, in order.
    pub windows: Vec<Seen>,
}

impl Sight {
    /// Reads the referee's file.
    ///
    /// # Errors
    /// [`BenchFailure::Unreadable`] with the first line that is not understood.
    pub fn parse(text: &str) -> Result<Self, BenchFailure> {
        let mut sight = Self::default();
        let mut profile = Vec::new();
        for line in text.lines() {
            let unreadable = || BenchFailure::Unreadable(line.to_owned());
            let mut words = line.split(' ');
            let kind = words.next();
            let words: Vec<_> = words.collect();
            match (kind, words.as_slice()) {
                (Some("bar"), [_, bytes]) => sight.bar_bytes = bytes.parse().map_err(|_| unreadable())?,
                (Some("at"), [instructions, addresses @ ..]) => profile.push(Place {
                    instructions: instructions.parse().map_err(|_| unreadable())?,
                    addresses: addresses
                        .iter()
                        .map(|address| u64::from_str_radix(address, 16).map_err(|_| unreadable()))
                        .collect::<Result<_, _>>()?,
                }),
                (Some("window"), words) => {
                    let numbers: Result<Vec<u64>, _> = words.iter().map(|word| word.parse()).collect();
                    let Ok(
                        [instructions, copy_instructions, invlpg, cr3_writes, ipis, bar_bytes_written, bar_bytes_read],
                    ) = numbers.map_err(|_| unreadable())?.try_into() as Result<[u64; 7], _>
                    else {
                        return Err(unreadable());
                    };
                    let counts = Counts {
                        instructions,
                        copy_instructions,
                        faults: 0,
                        ipis,
                        invlpg,
                        cr3_writes,
                        bar_bytes_written,
                        bar_bytes_read,
                    };
                    sight.windows.push(Seen { counts, profile: std::mem::take(&mut profile) });
                }
                _ => return Err(unreadable()),
            }
        }
        Ok(sight)
    }

    /// Holds every window against the kernel's; returns how many numbers were compared.
    ///
    /// # Errors
    /// The first number that differs.
    pub fn compare(&self, kernel: &[Window], bar_bytes: u64) -> Result<u64, BenchFailure> {
        if self.windows.len() != kernel.len() {
            return Err(BenchFailure::Windows { kernel: kernel.len(), referee: self.windows.len() });
        }
        if self.bar_bytes != bar_bytes {
            return Err(BenchFailure::Bar { bytes: bar_bytes, seen: self.bar_bytes });
        }
        let pairs = || kernel.iter().zip(&self.windows);
        let (window, seen) = pairs()
            .find(|(window, _)| window.name == KNOWN_LOOP)
            .ok_or_else(|| BenchFailure::Missing(KNOWN_LOOP.to_owned()))?;
        // What a window of the meter holds beside what is measured; the second loop is compared below, like everything else.
        let call = seen.counts.instructions.wrapping_sub(window.pages);
        let mut compared = 0;
        for (window, seen) in pairs() {
            for (what, kernel, referee) in numbers(window, seen, call) {
                if kernel != referee {
                    let (name, pages, cpus) = (window.name.clone(), window.pages, window.cpus);
                    return Err(BenchFailure::Disagree { name, pages, cpus, what, kernel, referee });
                }
                compared += 1;
            }
        }
        Ok(compared)
    }
}

/// What is compared, the kernel's number first.
fn numbers(window: &Window, seen: &Seen, call: u64) -> Vec<(&'static str, u64, u64)> {
    let (kernel, referee) = (&window.counts, &seen.counts);
    let instructions = referee.instructions.wrapping_sub(call).wrapping_sub(kernel.faults);
    if window.name == BOOT {
        // The kernel has not begun to count anything else; and where it starts other CPUs, it waits by the clock while all are halted.
        let alone = [("instructions", kernel.instructions, referee.instructions)];
        return alone.into_iter().filter(|_| window.cpus == 1).collect();
    }
    // The kernel states a number of interrupts that it sends past its own counter.
    let ipis = if window.name == KNOWN_INTERRUPTS { window.pages } else { kernel.ipis };
    let mut numbers = vec![
        ("instructions", kernel.instructions, instructions),
        ("IPIs", ipis, referee.ipis),
        ("INVLPG", kernel.invlpg, referee.invlpg),
        ("CR3 writes", kernel.cr3_writes, referee.cr3_writes),
    ];
    if window.metered {
        numbers.extend([
            ("instructions of copies", kernel.copy_instructions, referee.copy_instructions),
            ("bytes written in the BAR", kernel.bar_bytes_written, referee.bar_bytes_written),
            ("bytes read in the BAR", kernel.bar_bytes_read, referee.bar_bytes_read),
        ]);
    }
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "bar 10000000 65536\nwindow 700 0 0 9 0 0 0\nwindow 2010 0 0 0 0 0 0\nat 3 ff10 ff20\n\
                        window 159 40 2 1 3 4096 64\n";

    fn kernel() -> [Window; 3] {
        let window =
            |name: &str, pages, metered, counts| Window { name: name.to_owned(), pages, cpus: 1, metered, counts };
        [
            window(BOOT, 1, false, Counts { instructions: 700, cr3_writes: 9, ..Counts::default() }),
            window(KNOWN_LOOP, 2001, false, Counts { instructions: 2001, ..Counts::default() }),
            window(
                "fork",
                2,
                true,
                Counts {
                    instructions: 148,
                    copy_instructions: 40,
                    faults: 2,
                    ipis: 3,
                    invlpg: 2,
                    cr3_writes: 1,
                    bar_bytes_written: 4096,
                    bar_bytes_read: 64,
                },
            ),
        ]
    }

    #[test]
    fn what_agrees_is_counted() {
        let sight = Sight::parse(TEXT).unwrap();
        assert_eq!(sight.windows[2].profile, [Place { instructions: 3, addresses: vec![0xff10, 0xff20] }]);
        assert_eq!(sight.compare(&kernel(), 65536).unwrap(), 1 + 4 + 7);
        assert!(matches!(sight.compare(&kernel(), 4096), Err(BenchFailure::Bar { .. })));
        assert!(matches!(sight.compare(&kernel()[1..], 65536), Err(BenchFailure::Windows { .. })));
    }

    #[test]
    fn each_number_that_differs_is_named() {
        let changes: [fn(&mut Counts); 8] = [
            |counts| counts.instructions += 1,
            |counts| counts.copy_instructions -= 1,
            |counts| counts.faults += 1,
            |counts| counts.ipis += 1,
            |counts| counts.invlpg += 1,
            |counts| counts.cr3_writes -= 1,
            |counts| counts.bar_bytes_written += 1,
            |counts| counts.bar_bytes_read += 1,
        ];
        for change in changes {
            let mut windows = kernel();
            change(&mut windows[2].counts);
            let result = Sight::parse(TEXT).unwrap().compare(&windows, 65536);
            assert!(matches!(result, Err(BenchFailure::Disagree { pages: 2, .. })), "{result:?}");
        }
    }

    #[test]
    fn a_line_that_is_not_understood_is_named() {
        for line in ["window 1 2 3", "window 1 2 3 4 5 6 x", "at", "bar 1", "tea"] {
            assert!(matches!(Sight::parse(line), Err(BenchFailure::Unreadable(text)) if text == line), "{line}");
        }
    }
}
