//! Names of the files that the host tool offers over QEMU's fw_cfg.
//!
//! QEMU reserves the prefix `opt/` for its user; the second segment keeps us clear of others.

/// The file whose bytes the demo ferries to the device and back.
pub const INPUT: &str = "opt/ferry/input";

/// What the kernel is asked to do, as text; see [`crate::options`].
pub const OPTIONS: &str = "opt/ferry/options";

/// Longest options text that the kernel reads, in bytes.
pub const OPTIONS_MAX_BYTES: usize = 4096;
