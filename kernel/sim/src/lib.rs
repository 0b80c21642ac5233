//! A simulated machine that runs the memory manager on the host.
//!
//! [`Sim`] implements [`ferry_mm::machine::Machine`] with data structures: what boots and what runs here is the same
//! source. It is meaner than an emulator: a translation stays cached until somebody flushes it, a store stays in its
//! CPU's buffer until something drains it, and, where a seed asks for it, CPUs forget and fill translations on their own.
//!
//! ```text
//!    World
//!      MemoryManager ──────────── Machine trait ───────────▶ Sim
//!        ▲                                                    ├─ Memory: RAM (page tables and data), device memory
//!        │ fault, then again                                  └─ Core, one per CPU: Tlb ─ walker ─ StoreBuffer
//!      Cpu: load, store  ───────── hardware access ──────────▶      (one lock for each)
//!
//!    audit: reads the tables and compares them with every count that the memory manager keeps
//! ```
//!
//! Invariants:
//! 1. Everything is owned by its [`World`]; any number of them live side by side.
//! 2. A run on one host thread is a function of the builder's values: same seed, same run.
//! 3. A host thread acts as one CPU at a time, the one named in [`Sim::on`]. Several threads may act as different CPUs, or
//!    several tasks of one thread ([`Builder::tasks`]).
//! 4. Every call of the `Machine` trait that reads or changes anything announces its [`Moment`] first; that is where other CPUs get their turn, be it by
//!    seed, by a watcher ([`Sim::watch`]), or by a scheduler of tasks ([`Builder::tasks`]).
//! 5. At no moment does a CPU reach a free frame, be it by a translation, a path or a store on its way: that is asserted, not assumed.
#![forbid(unsafe_code)]

pub mod audit;
mod descriptors;
mod disk;
mod hardware;
mod host_thread;
mod machine;
mod memory;
mod program;
mod random;
mod store_buffer;
mod tlb;
mod world;

pub use audit::{Expected, audit, audit_with};
pub use descriptors::Descriptors;
pub use disk::{SimDisk, Transfer};
pub use hardware::PageFault;
pub use machine::{Chaos, Moment, Sim};
pub use program::{AccessError, Cpu};
pub use random::Random;
pub use world::{Builder, World};
