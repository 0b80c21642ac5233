//! The part of the loader that decides: pure, safe, and tested on the host.
//!
//! ```text
//!   kernel file ──▶ elf::plan ──▶ Image ─────────┐
//!                     └ config section           ▼
//!                        └▶ config::Request ─▶ layout::place ─▶ Layout
//!   firmware's map ─▶ memory::MemoryMap ─▶ FrameAllocator ─▶ image::Loaded ─▶ paging::Tables
//! ```
//!
//! The binary beside it (`main.rs`) has what needs instructions or raw memory: the PVH entry, the
//! console, the identity-mapped frames and the jump into the kernel.
#![no_std]
#![forbid(unsafe_code)]

pub mod config;
pub mod elf;
pub mod error;
pub mod image;
pub mod layout;
pub mod memory;
pub mod paging;
