//! Ferry's host tool: builds the kernel, boots it in QEMU, plays the device, and checks everything from outside.
//!
//! ```text
//!                 ┌────────────── ferry ──────────────┐
//!   FILE ───────▶ │ input                             │
//!                 │   │ fw_cfg        demo, tests     │ ──▶ terminal, JSON
//!   QEMU ◀──────▶ │ qemu: console, link, exit status  │
//!    │  RAM file  │ guest: walks the page tables      │
//!    └─ BAR file ─│ device: the model, and its memory │
//!                 └───────────────────────────────────┘
//! ```
//!
//! In reading order: [`cli`], [`machine`] and [`input`] (what was asked for, and whether it can be), [`artifacts`]
//! (building), [`qemu`] (running), [`conversation`] (following), [`guest`] (looking), [`demo`], [`experiment`] and [`kernel_tests`] (judging).
//!
//! Exit status, everywhere: 0 done and verified, 1 the system under test failed, 2 usage or environment.
#![deny(unsafe_code)]

mod arguments;
pub mod artifacts;
pub mod bench;
pub mod cli;
pub mod console;
pub mod conversation;
pub mod demo;
pub mod device;
pub mod doctor;
pub mod error;
pub mod experiment;
pub mod explore;
pub mod fuzz;
pub mod guest;
pub mod headed_files;
pub mod input;
pub mod json;
pub mod kernel_tests;
pub mod link;
pub mod machine;
pub mod mutants;
pub mod qemu;
pub mod report;
pub mod run_dir;
pub mod screen;
pub mod shell;
pub mod size;
pub mod soak;
pub mod swap;
pub mod symbols;
pub mod sys;
pub mod test_command;
pub mod trace;
