//! The host's model of the Ferry device: whoever maps the file behind the BAR *is* the device.
//!
//! ```text
//!                      file (memory-backend-file of QEMU, share=on)
//!                     ┌─────────────────┬──────────────────────────┐
//!                     │ control area    │ device frames            │
//!                     └─────────────────┴──────────────────────────┘
//!                        ▲           ▲        ▲               ▲
//!   Model::start ────────┘           │        │               │
//!     sizes the file,          polls │        │ inverts       │ reads, never writes
//!     writes the            ┌────────┴────────┴──┐   ┌────────┴───────────┐
//!     identification        │ thread: `engine`   │   │ `DeviceMemory`     │
//!                           │ through a mapping  │   │ through read calls │
//!                           └─────────▲──────────┘   └────────────────────┘
//!                                     │ DMA, through device page tables
//!                                     ▼
//!                           the file of the guest's RAM
//! ```
//!
//! Invariants:
//! 1. The identification stands in the file before [`Model::start`] returns, so before QEMU starts.
//! 2. Everything else in a new file is zero, in particular every device frame.
//! 3. The guest is not believed: each word of it is read once, checked, then used; whatever it
//!    writes, the model neither panics nor touches anything outside the device frames and its own
//!    pages of the control area.
//! 4. [`DeviceMemory`] takes sizes from what the model was started with, never from the file, which
//!    the guest may write.
//! 5. `unsafe` stands in `mapping` only.
//! 6. RAM of the guest is touched only where a page table of an attached context says so, never after the invalidation
//!    of the translation was completed.
#![deny(unsafe_code)]

mod engine;
mod mapping;
mod memory;
mod model;
mod options;
mod ram;
#[cfg(test)]
#[path = "../tests/support/mod.rs"]
mod support;

pub use engine::{Engine, GuestError};
pub use mapping::{Mapping, NoSuchRam, TransferError};
pub use memory::{DeviceMemory, MemoryError};
pub use model::{Model, ModelError};
pub use options::{Misbehaviour, Options};
pub use ram::{GuestRam, RamRegion};
