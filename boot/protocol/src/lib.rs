//! What the kernel and the host tool say to each other, in one place.
//!
//! Four channels cross the border of the guest, and each has its module:
//!
//! ```text
//!   host tool `ferry`                        guest
//!   ─────────────────                        ─────
//!   options, input file  ── fw_cfg ───────▶  [`options`], [`fw_cfg`]
//!   checks, test results ◀─ second serial ▶  [`link`]
//!   what happens within  ◀─ third serial ──  [`trace`]
//!   how the run ended    ◀─ debug-exit ────  [`exit`]
//! ```
//!
//! An observer of the guest's instructions, where there is one, sees its marks ([`mark`]).
//!
//! The first serial port carries text for people only: nothing on the host parses it, with one
//! exception, code addresses that are replaced by symbols (see [`symbol`]).
#![no_std]
#![forbid(unsafe_code)]

pub mod exit;
pub mod fw_cfg;
pub mod link;
pub mod mark;
pub mod options;
pub mod shell;
pub mod symbol;
pub mod trace;
