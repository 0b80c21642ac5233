//! The referee: counts from outside what the kernel says that it counts, for `./run.sh bench`.
//!
//! A plugin of QEMU's translator: it sees each instruction of the guest as it is translated, and has what is to be counted counted
//! when it executes. The guest says by marks ([`ferry_protocol::mark`]) what begins and ends.
//!
//! ```text
//!   QEMU translates ──▶ plugin::translated ──▶ instruction: what is it?
//!   QEMU executes   ──▶ plugin (counters, callbacks) ──▶ window: what counts right now ──▶ a line in the file `seen`
//! ```
//!
//! In reading order: [`instruction`] (told by its bytes), [`window`] (from begin to end), [`profile`] (where the instructions are),
//! `plugin` (what QEMU calls), `api` (what QEMU offers).
//!
//! Invariants:
//! 1. The guest runs with one tick per instruction, so QEMU executes all of its CPUs in turn on one thread, and counters need no more
//!    than that.
//! 2. No panic crosses into QEMU: the profile aborts on panic, and an `extern "C"` function would, too.
//!
//! The file has a line for each thing seen, of words separated by spaces: `bar FIRST BYTES`, then for each window
//! `at COUNT ADDRESS SITE...` as often as there are such, where a profile is wanted, and `window` with the counts of
//! [`window::Counts`] in order.
#![deny(unsafe_code)]

#[cfg(not(test))]
mod api;
pub mod instruction;
#[cfg(not(test))]
mod plugin;
pub mod profile;
pub mod window;
