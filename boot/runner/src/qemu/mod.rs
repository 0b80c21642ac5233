//! QEMU: finding it, its command line, and the process while it runs.
pub mod command;
pub mod debugger;
pub mod discover;
pub mod process;

pub use command::{Boot, Clock};
pub use discover::{Qemu, QemuError};
pub use process::{End, Event, Machine, StartError};
