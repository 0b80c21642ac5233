//! How the kernel writes a code address that the host shall replace by a symbol.
//!
//! The kernel has no symbol table. Where it prints a code address in a report it writes it between
//! these two marks, and the host tool, which has the ELF with its debug information, puts
//! `function at file:line` in its place. Read without the host tool, the mark is still legible.

/// Opens a code address: `{code:0x`.
pub const OPEN: &str = "{code:0x";

/// Closes a code address.
pub const CLOSE: &str = "}";
