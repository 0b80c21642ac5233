//! One sentence with the likely cause.
use super::path::{End, Path};
use crate::arch::frame::ExceptionFrame;
use crate::arch::layout::{self, DIRECT_MAP};
use crate::arch::per_cpu::{ExceptionStack, FAULT_ROOM_BYTES, PerCpu};
use crate::ram;
use core::fmt;
use x86_64::structures::idt::PageFaultErrorCode;
use x86_64::structures::paging::PageTableFlags;
use x86_64::{PhysAddr, VirtAddr};

/// Why an exception probably happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// A null pointer, or a field of one.
    NullPointer(VirtAddr),
    /// The guard page of this stack.
    GuardPage { stack: &'static str },
    /// A physical address without RAM, through the direct map.
    NotRam(PhysAddr),
    /// An entry with a reserved bit.
    ReservedBit,
    /// A table that is not in RAM.
    DamagedTable,
    /// Nothing is mapped; the level whose entry is empty, and the window of the address.
    Unmapped { level: usize, window: &'static str },
    /// A special entry that nobody resolved.
    SpecialEntry(u64),
    /// A write to a read-only page.
    ReadOnly,
    /// A jump to a page that holds no code.
    NotExecutable,
    /// An access to a page of ring 3.
    RingThree,
    /// The tables allow what faulted.
    StaleTranslation,
    /// A register with a pointer that is not canonical.
    NotCanonical { register: &'static str, value: u64 },
    /// Every other exception, by its vector.
    Exception(u64),
}

impl Cause {
    /// The cause of a page fault.
    pub fn of_page_fault(address: VirtAddr, code: PageFaultErrorCode, path: &Path) -> Self {
        if layout::NULL.contains(address) {
            return Self::NullPointer(address);
        }
        if let Some((stack, _)) = PerCpu::current().stacks().find(|(_, stack)| stack.guards(address.as_u64())) {
            return Self::GuardPage { stack };
        }
        if code.contains(PageFaultErrorCode::MALFORMED_TABLE) {
            return Self::ReservedBit;
        }
        match path.end {
            End::Damaged => Self::DamagedTable,
            End::NotPresent(_, value) if value != 0 => Self::SpecialEntry(value),
            End::NotPresent(level, _) => {
                let physical = PhysAddr::new_truncate(address.as_u64().wrapping_sub(DIRECT_MAP.start().as_u64()));
                if DIRECT_MAP.contains(address) && !ram::contains(physical, 1) {
                    return Self::NotRam(physical);
                }
                Self::Unmapped { level, window: layout::window_of(address).map_or("no window", |(name, _)| name) }
            }
            End::Mapped => Self::of_protection(code, path),
        }
    }

    fn of_protection(code: PageFaultErrorCode, path: &Path) -> Self {
        let fetch = code.contains(PageFaultErrorCode::INSTRUCTION_FETCH);
        if fetch && path.any(PageTableFlags::NO_EXECUTE) {
            Self::NotExecutable
        } else if code.contains(PageFaultErrorCode::CAUSED_BY_WRITE) && !path.all(PageTableFlags::WRITABLE) {
            Self::ReadOnly
        } else if code.contains(PageFaultErrorCode::PROTECTION_VIOLATION) && path.all(PageTableFlags::USER_ACCESSIBLE) {
            Self::RingThree
        } else {
            Self::StaleTranslation
        }
    }

    /// The cause of an exception that is no page fault.
    pub fn of_exception(frame: &ExceptionFrame) -> Self {
        /// Vectors that an address raises which is not canonical (Intel SDM 1, 3.3.7.1).
        const STACK_SEGMENT: u64 = 12;
        const GENERAL_PROTECTION: u64 = 13;
        let pointer = || frame.registers().into_iter().find(|(_, value)| VirtAddr::try_new(*value).is_err());
        match frame.vector {
            STACK_SEGMENT | GENERAL_PROTECTION if frame.error_code == 0 => match pointer() {
                Some((register, value)) => Self::NotCanonical { register, value },
                None => Self::Exception(frame.vector),
            },
            vector => Self::Exception(vector),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NullPointer(address) if address.is_null() => f.write_str("a null pointer was used"),
            Self::NullPointer(address) => write!(f, "a null pointer was used, {address:#x} bytes into what it should point to"),
            Self::GuardPage { stack } => {
                write!(f, "the {stack} overflowed into its guard page: endless recursion, or a very large local variable")
            }
            Self::NotRam(address) => write!(f, "the direct map covers RAM only, and p{address:#x} is none"),
            Self::ReservedBit => f.write_str("an entry has a bit set that the CPU reserves: it was not written by the entry codec"),
            Self::DamagedTable => f.write_str("the page table was overwritten, or one of its frames was freed while in use"),
            Self::Unmapped { level, window } => {
                write!(f, "nothing is mapped there (the L{level} entry is empty; window: {window}): a pointer that is wild, or used after unmapping")
            }
            Self::SpecialEntry(value) => write!(f, "the special entry {value:#x} was not resolved; the memory manager's line says why"),
            Self::ReadOnly => f.write_str("a write to a page that is read-only"),
            Self::NotExecutable => f.write_str("a jump to a page that holds no code: a bad function pointer or return address"),
            Self::RingThree => f.write_str("the kernel touched a page of ring 3, which SMEP and SMAP forbid"),
            Self::StaleTranslation => {
                f.write_str("the tables allow this access, so the CPU used an older translation: a flush is missing")
            }
            Self::NotCanonical { register, value } => {
                write!(f, "an address that is not canonical; {register} holds {value:#018x}: a damaged pointer")
            }
            Self::Exception(vector) => f.write_str(match vector {
                0 => "a division by zero, or a quotient that is too large",
                1 => "a breakpoint of a debugger that is not there",
                2 => "the hardware, or QEMU's monitor, sent an interrupt that cannot be masked",
                3 => "the code met a breakpoint instruction",
                6 => "the code met an instruction that does not exist: a compiler's trap for the unreachable, or a jump into data",
                7 => "vector instructions are switched off",
                8 => "delivering an exception failed: its exception stack, or the tables of the CPU, are damaged",
                13 => "a privileged or misaligned operation, or a damaged descriptor",
                18 => "the hardware reports that it is broken",
                32.. => "a device interrupted, but the kernel has switched all interrupts off",
                _ => "nothing in the kernel should raise this",
            }),
        }
    }
}

/// Why the stack of interrupted code cannot take the page-fault handler.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StackProblem {
    /// The guard page was touched, or the stack pointer is in or below it.
    Overflow { stack: &'static str },
    /// The stack pointer is in the stack, with so many bytes left.
    LittleRoom { left: u64 },
    /// The move of the frame off the exception stack faulted.
    DuringMove,
    /// A handler that stays on its exception stack touched a page that faults.
    InHandler(ExceptionStack),
    /// The stack pointer belongs to no stack.
    Elsewhere,
}

impl StackProblem {
    /// What is wrong with the stack pointer `rsp`, with which `address` was touched.
    pub fn of(cpu: &PerCpu, rsp: u64, address: VirtAddr) -> Self {
        let on_stack = |kind: &ExceptionStack| cpu.exception_stack(*kind).holds_pointer(rsp);
        if let Some((stack, _)) = cpu.stacks().find(|(_, stack)| stack.guards(address.as_u64()) || stack.guards(rsp)) {
            return Self::Overflow { stack };
        }
        if cpu.stack().holds_pointer(rsp) {
            return Self::LittleRoom { left: rsp - cpu.stack().bottom.as_u64() };
        }
        match ExceptionStack::ALL.into_iter().find(on_stack) {
            Some(ExceptionStack::PageFault) => Self::DuringMove,
            Some(kind) => Self::InHandler(kind),
            None => Self::Elsewhere,
        }
    }

    /// The title of the report.
    pub fn title(&self) -> &'static str {
        match self {
            Self::Overflow { .. } | Self::LittleRoom { .. } => "stack overflow",
            Self::DuringMove => "page fault during the move off the exception stack",
            Self::InHandler(_) => "page fault inside an exception handler",
            Self::Elsewhere => "page fault with a bad stack pointer",
        }
    }
}

impl fmt::Display for StackProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Overflow { stack } => {
                write!(f, "the {stack} overflowed into its guard page: endless recursion, or a very large local variable")
            }
            Self::LittleRoom { left } => write!(
                f,
                "only {left} bytes of the kernel stack are left, fewer than the {FAULT_ROOM_BYTES} that a page fault needs: deep recursion, or page faults that nest without end"
            ),
            Self::DuringMove => f.write_str(
                "the stack that the handler was to run on is not mapped, or not writable, although its bounds are known",
            ),
            Self::InHandler(kind) => write!(
                f,
                "a handler on the {} touched a page that is not there; such handlers may touch pages of the kernel only",
                kind.name()
            ),
            Self::Elsewhere => f.write_str("the stack pointer was overwritten: it belongs to no stack of this CPU"),
        }
    }
}
