//! What an experiment usually needs: `use ferry_kernel::prelude::*`.
//!
//! Everything else is where it belongs: the memory manager in `ferry_mm`, the machine in [`crate::arch`].
pub use crate::arch::areas;
pub use crate::arch::machine::PageBuffer;
pub use crate::experiment::failure::{Failure, Outcome};
pub use crate::experiment::lab::{Lab, Lacking};
pub use crate::experiment::memory::Memory;
pub use crate::experiment::place::Place;
pub use crate::memory::device::Attached;
pub use crate::memory::mirror::{Buffer, Mirror};
pub use crate::memory::{AddressSpace, run_in};
pub use crate::{experiment, print, println};
pub use ferry_mm::address::{PAGE_BYTES, PageRange};
pub use ferry_mm::page_table::entry::Entry;
pub use ferry_mm::space::{Access, Protection, Term};
pub use ferry_mm::stats::Reason;
