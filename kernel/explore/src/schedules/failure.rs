//! What is said when a schedule shows a violation: what is wrong, and the command that shows it again.
//!
//! A violation is a panic, of a check here or of an assertion in the memory manager or the machine. Other schedules are of no
//! interest then, so the panic hook ends the process.
use std::cell::Cell;
use std::panic;
use std::sync::Once;

/// Exit status where what was checked does not hold.
pub const STATUS_VIOLATION: i32 = 1;

/// The variable that names the seeded mutant of the build that this is, where it is one.
pub const MUTANT_VARIABLE: &str = "FERRY_MUTANT";

thread_local! {
    static SEED: Cell<u64> = const { Cell::new(0) };
}

/// This host thread explores the schedule of `seed` from now on.
pub(super) fn set_current_seed(seed: u64) {
    SEED.set(seed);
}

/// The command that runs one schedule again.
fn replay(seed: u64) -> String {
    let mutant = std::env::var(MUTANT_VARIABLE).map(|name| format!(" --mutant {name}")).unwrap_or_default();
    format!("./run.sh explore --schedules 1 --seed {seed}{mutant}")
}

/// Lets a violation end the process from now on. Called inside a schedule, because shuttle installs a hook of its own before.
pub(super) fn end_with_violation() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        panic::set_hook(Box::new(|info| {
            let seed = SEED.get();
            let place =
                info.location().map(|place| format!(" ({}:{})", place.file(), place.line())).unwrap_or_default();
            let what = info.payload_as_str().unwrap_or("a panic without words");
            println!("violation in the schedule of seed {seed}: {what}{place}");
            println!("replay it with: {}", replay(seed));
            std::process::exit(STATUS_VIOLATION);
        }));
    });
}
