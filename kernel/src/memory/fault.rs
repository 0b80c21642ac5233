//! Page faults: from the exception to the memory manager.
#![forbid(unsafe_code)]
use super::{AddressSpace, strict};
use crate::arch::frame::ExceptionFrame;
use crate::arch::layout;
use crate::arch::per_cpu::PerCpu;
use crate::trace::{self, Told};
use core::fmt;
use core::sync::atomic::Ordering::Relaxed;
use ferry_mm::space::{Access, FaultError, Resolution};
use x86_64::VirtAddr;
use x86_64::structures::idt::PageFaultErrorCode;

/// Why a page fault could not be resolved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// The address is none that areas may have.
    OutsideAreas,
    /// This CPU is in no address space.
    NoSpace,
    /// The CPU found a reserved bit set in an entry.
    MalformedEntry,
    /// The memory manager says why.
    Access(FaultError),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutsideAreas => f.write_str("the address is none that the memory manager hands out"),
            Self::NoSpace => f.write_str("this CPU is in no address space; enter one before touching its areas"),
            Self::MalformedEntry => {
                f.write_str("an entry on the path has a reserved bit set; the page table is damaged")
            }
            Self::Access(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for Failure {}

/// Makes the access possible that faulted at `address`.
///
/// Takes no lock of the console and nothing from the heap.
///
/// # Errors
/// See [`Failure`]; the access cannot succeed.
#[inline(always)]
pub fn page_fault(address: VirtAddr, code: PageFaultErrorCode, frame: &ExceptionFrame) -> Result<(), Failure> {
    trace::tell(|| Told::FaultRaised { address: address.as_u64(), instruction: frame.rip, code: code.bits() });
    if !layout::AREAS.contains(address) {
        return Err(Failure::OutsideAreas);
    }
    if code.contains(PageFaultErrorCode::MALFORMED_TABLE) {
        return Err(Failure::MalformedEntry);
    }
    let space = super::current_space().ok_or(Failure::NoSpace)?;
    // Told apart first: loads and stores go different ways from here on.
    if code.contains(PageFaultErrorCode::CAUSED_BY_WRITE) {
        return resolve(space, address, Access::Write, frame);
    }
    let fetches = code.contains(PageFaultErrorCode::INSTRUCTION_FETCH);
    resolve(space, address, if fetches { Access::Execute } else { Access::Read }, frame)
}

#[inline(always)]
fn resolve(space: AddressSpace, address: VirtAddr, access: Access, frame: &ExceptionFrame) -> Result<(), Failure> {
    if space.fault(address, access).map_err(Failure::Access)? == Resolution::CameHome {
        PerCpu::current().counters.faults.fetch_add(1, Relaxed);
        strict::note(address, frame.instruction_pointer(), access);
    }
    Ok(())
}
