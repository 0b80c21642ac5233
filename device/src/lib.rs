//! The Ferry device as the guest sees it: what stands in the memory behind its BAR, and the driver.
//!
//! The device is QEMU's `ivshmem-plain`: BAR2 is ordinary RAM that a file on the host backs. Whoever
//! maps that file is the device; here that is the model (crate `ferry-device-model`).
//!
//! ```text
//!   guest                                   BAR2 = one shared file                  host
//!   ─────                             ┌──────────────────────────────┐              ─────
//!   Device ── submit, wait ─────────▶ │ control area   8 pages       │ ◀── polls ── model
//!   Device ◀─ next_request, answer ─▶ │                              │ ◀── asks ─── model
//!                                     ├──────────────────────────────┤
//!   Bar ───── read/write/clear ─────▶ │ device frame 0       4 KiB   │ ◀── inverts ─ model
//!             _frame                  │ device frame 1               │
//!                                     │ ...                          │
//!                                     └──────────────────────────────┘
//! ```
//!
//! In reading order: [`geometry`] (sizes and frame indices), [`layout`] (where each byte of the
//! control area stands), [`context`] (address spaces as the device sees them), [`command`] (what is asked of the
//! device), [`request`] (what it asks), [`bar`] (the one place that touches the memory), [`page_table`] (where a
//! context's pages are), [`identity`] (whose BAR is it), [`driver`] (the rings).
//!
//! Invariants:
//! 1. Nothing here believes the other side. What is read from the BAR is copied out once, then
//!    checked, then used; whatever it holds, the outcome is a value or an error, never a panic, an
//!    endless wait or an access outside the BAR.
//! 2. No reference into the BAR exists, ever: the other side writes there at any time.
//! 3. `unsafe` stands in [`bar`] and its copy loops only.
#![no_std]
#![deny(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod bar;
pub mod command;
pub mod context;
pub mod driver;
pub mod geometry;
pub mod identity;
pub mod layout;
pub mod page_table;
pub mod request;
mod wire;

#[cfg(test)]
mod testing;

pub use bar::{Bar, BarError};
pub use command::{Command, Completion, Status};
pub use context::{ContextId, PageSpan, RamFrame, VirtualPage};
pub use driver::{Deadline, Device, DeviceError};
pub use geometry::{FrameIndex, FrameRange, Geometry, NoSuchFrame, RangeError, SizeError};
pub use identity::{AttachError, DeviceType, Identity};
