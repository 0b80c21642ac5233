//! The local APIC: who this CPU is, and interrupts from CPU to CPU (Intel SDM 3A, chapter 10).
//!
//! ```text
//!             x2APIC, where CPUID offers it        xAPIC
//!   access    MSR 0x800 + register / 16            the page at IA32_APIC_BASE, not cached
//!   send      one write of 64 bits                 target to ICR high, then command to ICR low
//! ```
//!
//! Invariants:
//! 1. All CPUs are in one mode, chosen by the CPU that boots. Nothing but CPUs interrupts: the local sources are masked.
//! 2. [`send`] may run in any handler: it takes no lock. It is called again on one CPU, in the middle of itself, only by a
//!    report, which never returns there.
use super::low_physical;
use super::machine::Hardware;
use core::arch::asm;
use core::fmt;
use ferry_acpi::ApicId;
use ferry_mm::lock::{Level, Once};
use ferry_mm::page_table::install::InstallError;
use raw_cpuid::CpuId;
use x86_64::registers::model_specific::Msr;
use x86_64::{PhysAddr, VirtAddr};

/// Vector of an interrupt that was taken back before it was delivered; it wants no end-of-interrupt (10.9).
pub const SPURIOUS_VECTOR: u8 = 0xff;

/// IA32_APIC_BASE and its bits: extended mode, global enable, address (10.4.4, 10.12.1).
const BASE_REGISTER: u32 = 0x1b;
const BASE_EXTENDED: u64 = 1 << 10;
const BASE_ENABLE: u64 = 1 << 11;
const BASE_ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// First MSR of the registers in extended mode (10.12.1.2).
const EXTENDED_FIRST: u32 = 0x800;

/// Registers, by their offset in the page (table 10-1).
const ID: u32 = 0x20;
const TASK_PRIORITY: u32 = 0x80;
const END_OF_INTERRUPT: u32 = 0xb0;
const SPURIOUS: u32 = 0xf0;
const COMMAND_LOW: u32 = 0x300;
const COMMAND_HIGH: u32 = 0x310;
/// Timer, thermal sensor, performance counters, LINT0, error: every source that a CPU with long mode has, but LINT1, which
/// is the NMI pin.
const LOCAL_SOURCES: [u32; 5] = [0x320, 0x330, 0x340, 0x350, 0x370];
const LOCAL_SOURCE_MASKED: u32 = 1 << 16;

const SOFTWARE_ENABLE: u32 = 1 << 8;
/// Where the 8-bit id stands in ID and in the high command register.
const ID_SHIFT: u32 = 24;

/// Bits of the low command register (figure 10-12).
const DELIVERY_NMI: u32 = 0b100 << 8;
const DELIVERY_INIT: u32 = 0b101 << 8;
const DELIVERY_STARTUP: u32 = 0b110 << 8;
const LEVEL_ASSERT: u32 = 1 << 14;
const SEND_PENDING: u32 = 1 << 12;

/// How often the status of the last interrupt is read before the next is sent anyway.
const MOST_POLLS: u32 = 1 << 16;

/// What one CPU sends another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Message {
    /// An interrupt of this vector.
    Interrupt(u8),
    /// One that cannot be masked.
    NonMaskable,
    /// Back to the state after reset, and wait for [`Message::Startup`] (Intel SDM 3A, 8.4).
    Init,
    /// Start in real mode, at 4096 times this number.
    Startup(u8),
}

impl Message {
    const fn command(self) -> u32 {
        match self {
            Self::Interrupt(vector) => vector as u32 | LEVEL_ASSERT,
            Self::NonMaskable => DELIVERY_NMI | LEVEL_ASSERT,
            Self::Init => DELIVERY_INIT | LEVEL_ASSERT,
            Self::Startup(page) => page as u32 | DELIVERY_STARTUP | LEVEL_ASSERT,
        }
    }
}

/// How the registers are reached.
#[derive(Clone, Copy)]
enum Mode {
    Extended,
    Page(VirtAddr),
}

static MODE: Once<Mode> = Once::new(Level::Stored);

/// Why this CPU cannot talk to others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ApicError {
    /// The registers are at this physical address, which is not below 4 GiB.
    OutOfReach(PhysAddr),
    /// They cannot be mapped.
    Install(InstallError),
}

impl fmt::Display for ApicError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfReach(address) => write!(f, "the local APIC's registers are at p{address:#x}, above 4 GiB"),
            Self::Install(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for ApicError {}

impl Mode {
    fn choose() -> Result<Self, ApicError> {
        if CpuId::new().get_feature_info().is_some_and(|info| info.has_x2apic()) {
            return Ok(Self::Extended);
        }
        let address = PhysAddr::new_truncate(base() & BASE_ADDRESS);
        if address.as_u64() > u64::from(u32::MAX) {
            return Err(ApicError::OutOfReach(address));
        }
        low_physical::map_registers(address).map(Self::Page).map_err(ApicError::Install)
    }

    fn read(self, register: u32) -> u32 {
        match self {
            // SAFETY: the register exists in extended mode, and reading has no effect.
            Self::Extended => unsafe { Msr::new(EXTENDED_FIRST + register / 16).read() as u32 },
            // SAFETY: the page is that of the registers, mapped for ever and not cached.
            Self::Page(page) => unsafe { (page + u64::from(register)).as_ptr::<u32>().read_volatile() },
        }
    }

    fn write(self, register: u32, value: u32) {
        match self {
            // SAFETY: the callers write what the register takes; none of them changes memory.
            Self::Extended => unsafe { Msr::new(EXTENDED_FIRST + register / 16).write(value.into()) },
            // SAFETY: as for `read`.
            Self::Page(page) => unsafe { (page + u64::from(register)).as_mut_ptr::<u32>().write_volatile(value) },
        }
    }
}

fn base() -> u64 {
    // SAFETY: every CPU with long mode has the register.
    unsafe { Msr::new(BASE_REGISTER).read() }
}

/// Switches this CPU's APIC on. The first CPU to call chooses the mode for all.
///
/// # Errors
/// See [`ApicError`]; only the first call can fail.
pub fn enable() -> Result<(), ApicError> {
    let mode = match MODE.get() {
        Some(mode) => mode,
        None => {
            let chosen = Mode::choose()?;
            MODE.get_or_init(&Hardware, || chosen)
        }
    };
    let extended = if matches!(mode, Mode::Extended) { BASE_EXTENDED } else { 0 };
    // SAFETY: switches the APIC on, in a mode that it has; nothing relies on it being off.
    unsafe { Msr::new(BASE_REGISTER).write(base() | BASE_ENABLE | extended) };
    for source in LOCAL_SOURCES {
        mode.write(source, LOCAL_SOURCE_MASKED);
    }
    mode.write(TASK_PRIORITY, 0);
    mode.write(SPURIOUS, SOFTWARE_ENABLE | u32::from(SPURIOUS_VECTOR));
    Ok(())
}

/// The id of this CPU's APIC.
///
/// # Panics
/// Before [`enable`].
pub fn id() -> ApicId {
    match mode() {
        Mode::Extended => ApicId(Mode::Extended.read(ID)),
        page => ApicId(page.read(ID) >> ID_SHIFT),
    }
}

fn mode() -> Mode {
    *MODE.get().expect("the local APIC is switched on before it is used")
}

/// Ends the interrupt that is being handled.
pub fn end_of_interrupt() {
    mode().write(END_OF_INTERRUPT, 0);
}

/// Sends `message` to one CPU. What this CPU has stored before, the other sees.
pub fn send(target: ApicId, message: Message) {
    match mode() {
        Mode::Extended => {
            // SAFETY: orders stores before the write of an MSR that does not order them (10.12.3); sends the message.
            unsafe {
                asm!("mfence", "lfence", options(nostack, preserves_flags));
                let command = u64::from(target.0) << 32 | u64::from(message.command());
                Msr::new(EXTENDED_FIRST + COMMAND_LOW / 16).write(command);
            }
        }
        page => {
            for _ in 0..MOST_POLLS {
                if page.read(COMMAND_LOW) & SEND_PENDING == 0 {
                    break;
                }
                core::hint::spin_loop();
            }
            page.write(COMMAND_HIGH, target.0 << ID_SHIFT);
            page.write(COMMAND_LOW, message.command());
        }
    }
}
