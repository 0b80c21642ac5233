//! What QEMU calls: the installation, each translation, and what was asked to be called when instructions execute.
#![allow(unsafe_code, reason = "QEMU finds its entry points by their names and hands over raw pointers")]
use std::ffi::{c_char, c_int, c_uint, c_void};
use std::fs::File;
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ferry_protocol::mark::Mark;

use crate::api::{self, Access, Block, Id, MemoryInfo};
use crate::instruction::Kind;
use crate::profile::Profile;
use crate::window::{Counts, Window};

/// The low command register of a local APIC in its page (Intel SDM 3A, 10.4.1 and figure 10-12): a store sends an interrupt.
const COMMAND_REGISTER: u64 = 0xfee0_0300;

/// Bytes of the words that show where the BAR begins and ends.
const WORD_BYTES: u64 = 8;

static INSTRUCTIONS: AtomicU64 = AtomicU64::new(0);
static INVLPG: AtomicU64 = AtomicU64::new(0);
static CR3_WRITES: AtomicU64 = AtomicU64::new(0);
static IPIS: AtomicU64 = AtomicU64::new(0);
static BAR_BYTES_WRITTEN: AtomicU64 = AtomicU64::new(0);
static BAR_BYTES_READ: AtomicU64 = AtomicU64::new(0);

/// Where the BAR is among QEMU's memory, once it was shown.
static BAR_FIRST: AtomicU64 = AtomicU64::new(u64::MAX);
static BAR_BYTES: AtomicU64 = AtomicU64::new(0);

/// Whether accesses are looked at: a window is open, or the BAR is being shown.
static LOOKING: AtomicBool = AtomicBool::new(false);

/// Whether a profile is wanted.
static PROFILED: AtomicBool = AtomicBool::new(false);

static STATE: Mutex<State> = Mutex::new(State { window: None, showing: None, profile: None, seen: None });

struct State {
    window: Option<Window>,
    /// The word of the BAR that is read next.
    showing: Option<Mark>,
    profile: Option<Profile>,
    /// Where to write what was seen.
    seen: Option<File>,
}

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The version of the interface that this plugin wants; QEMU looks for it by this name.
#[unsafe(no_mangle)]
pub static qemu_plugin_version: c_int = api::VERSION;

/// Called once, when QEMU loads the plugin. Arguments: `seen=FILE`, where to write, and `profile=on`.
///
/// # Safety
/// QEMU calls it as its interface says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qemu_plugin_install(
    id: Id,
    _info: *const c_void,
    count: c_int,
    values: *const *const c_char,
) -> c_int {
    const FAILED: c_int = 1;
    let mut file = None;
    // SAFETY: what QEMU has called us with.
    for argument in unsafe { api::arguments(count, values) } {
        match argument.split_once('=') {
            Some(("seen", path)) => match File::create(path) {
                Ok(created) => file = Some(created),
                Err(error) => {
                    eprintln!("ferry-referee: cannot write {path}: {error}; name a file that can be written");
                    return FAILED;
                }
            },
            Some(("profile", "on" | "true")) => PROFILED.store(true, Relaxed),
            _ => {
                eprintln!("ferry-referee: {argument:?} is not understood; give seen=FILE and, if wanted, profile=on");
                return FAILED;
            }
        }
    }
    if file.is_none() {
        eprintln!("ferry-referee: seen=FILE is missing, where to write what is seen");
        return FAILED;
    }
    state().seen = file;
    api::on_translation(id, translated);
    0
}

/// Has what counts counted in a block that QEMU translates.
extern "C" fn translated(_: Id, block: *mut Block) {
    // SAFETY: QEMU's own block, as it calls us.
    for mut instruction in unsafe { api::instructions(block) } {
        let kind = Kind::of(instruction.bytes());
        if let Kind::Mark(mark) = kind {
            instruction.on_execution(marked, mark as usize);
            continue;
        }
        instruction.count(&INSTRUCTIONS);
        match kind {
            Kind::InvalidatePage => instruction.count(&INVLPG),
            Kind::LoadRoot => instruction.count(&CR3_WRITES),
            _ => {}
        }
        if PROFILED.load(Relaxed) {
            let callback = match kind {
                Kind::Call => called,
                Kind::Return => returned,
                _ => executed,
            };
            instruction.on_execution(callback, instruction.address() as usize);
        }
        instruction.on_access(accessed);
    }
}

fn counts() -> Counts {
    Counts {
        instructions: INSTRUCTIONS.load(Relaxed),
        copied: 0,
        invlpg: INVLPG.load(Relaxed),
        cr3_writes: CR3_WRITES.load(Relaxed),
        ipis: IPIS.load(Relaxed),
        bar_bytes_written: BAR_BYTES_WRITTEN.load(Relaxed),
        bar_bytes_read: BAR_BYTES_READ.load(Relaxed),
    }
}

/// A mark is about to execute.
extern "C" fn marked(_: c_uint, data: *mut c_void) {
    let Some(mark) = Mark::from_number(data.addr() as u8) else { return };
    let mut state = state();
    if matches!(mark, Mark::FirstWord | Mark::LastWord) {
        state.showing = Some(mark);
        LOOKING.store(true, Relaxed);
        return;
    }
    if mark == Mark::Begin {
        state.profile = PROFILED.load(Relaxed).then(Profile::default);
    }
    let window = state.window.get_or_insert_default();
    let ended = window.mark(mark, counts());
    LOOKING.store(window.is_counting(), Relaxed);
    if let Some(counts) = ended {
        let lines = state.profile.as_mut().map(Profile::take).unwrap_or_default();
        state.profile = None;
        state.write(&format!("{lines}window {counts}\n"));
    }
}

impl State {
    fn write(&mut self, text: &str) {
        if let Some(file) = &mut self.seen
            && let Err(error) = file.write_all(text.as_bytes())
        {
            // Whoever reads the file finds less than it must have.
            eprintln!("ferry-referee: cannot write what was seen: {error}");
            self.seen = None;
        }
    }
}

/// An instruction has accessed memory.
extern "C" fn accessed(_: c_uint, info: MemoryInfo, address: u64, _: *mut c_void) {
    if !LOOKING.load(Relaxed) {
        return;
    }
    let Some(access) = Access::of(info, address) else { return };
    if access.is_io {
        if access.is_store && access.place == COMMAND_REGISTER {
            IPIS.fetch_add(1, Relaxed);
        }
        return;
    }
    if access.place.wrapping_sub(BAR_FIRST.load(Relaxed)) < BAR_BYTES.load(Relaxed) {
        let counter = if access.is_store { &BAR_BYTES_WRITTEN } else { &BAR_BYTES_READ };
        counter.fetch_add(access.bytes, Relaxed);
        return;
    }
    if BAR_BYTES.load(Relaxed) == 0 {
        show(access);
    }
}

/// Learns where the BAR is, from the accesses that follow the two marks.
fn show(access: Access) {
    let mut state = state();
    match state.showing.take() {
        Some(Mark::FirstWord) => BAR_FIRST.store(access.place, Relaxed),
        Some(Mark::LastWord) => {
            let first = BAR_FIRST.load(Relaxed);
            let bytes = access.place.wrapping_sub(first).wrapping_add(WORD_BYTES);
            BAR_BYTES.store(bytes, Relaxed);
            LOOKING.store(false, Relaxed);
            state.write(&format!("bar {first:x} {bytes}\n"));
        }
        _ => {}
    }
}

fn note(address: *mut c_void, kind: Kind) {
    // Marks switch this on and off, so a look at it is all that most instructions cost.
    if !LOOKING.load(Relaxed) {
        return;
    }
    let mut state = state();
    let counted = state.window.as_ref().is_some_and(|window| !window.is_copying());
    if let Some(profile) = &mut state.profile {
        profile.note(address.addr() as u64, kind, counted);
    }
}

extern "C" fn executed(_: c_uint, address: *mut c_void) {
    note(address, Kind::Other);
}

extern "C" fn called(_: c_uint, address: *mut c_void) {
    note(address, Kind::Call);
}

extern "C" fn returned(_: c_uint, address: *mut c_void) {
    note(address, Kind::Return);
}
