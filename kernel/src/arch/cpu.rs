//! The CPU's protections and features, switched on where it has them.
//!
//! What the memory manager cannot do without (NX, write protection in ring 0, SSE) is switched on
//! whatever the loader did; the rest where CPUID offers it.
use core::fmt;
use raw_cpuid::CpuId;
use x86_64::registers::control::{Cr0, Cr0Flags, Cr4, Cr4Flags, Efer, EferFlags};
use x86_64::registers::model_specific::Msr;
use x86_64::structures::paging::PageTableFlags;

/// Flags of a leaf that select write-combining, by the slot of the page-attribute table that
/// `enable` fills. At reset that slot means write-through, which nothing here uses.
pub const WRITE_COMBINING: PageTableFlags = PageTableFlags::WRITE_THROUGH;

/// The register of the page-attribute table, its slot chosen by PWT alone, and the code of
/// write-combining (Intel SDM 3A, 11.12.2 and table 11-10).
const PAGE_ATTRIBUTES: u32 = 0x277;
const WRITE_COMBINING_SLOT: u32 = 1;
const WRITE_COMBINING_TYPE: u64 = 1;
const BITS_PER_SLOT: u32 = 8;

/// What this CPU offers and the kernel has switched on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Features {
    /// Ring 0 executes no page of ring 3.
    pub smep: bool,
    /// Ring 0 reads and writes no page of ring 3 unless it says so.
    pub smap: bool,
    /// Ring 3 cannot read the addresses of descriptor tables.
    pub umip: bool,
    /// Translations of the kernel may survive a CR3 write.
    pub global_pages: bool,
    /// Memory types per page; without it [`WRITE_COMBINING`] means write-through.
    pub page_attributes: bool,
}

impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NX WP")?;
        let optional = [
            ("SMEP", self.smep),
            ("SMAP", self.smap),
            ("UMIP", self.umip),
            ("PGE", self.global_pages),
            ("PAT", self.page_attributes),
        ];
        for (name, has) in optional {
            if has {
                write!(f, " {name}")?;
            }
        }
        Ok(())
    }
}

/// Switches on what there is.
///
/// The loader has refused CPUs without long mode, NX and, by the 64-bit architecture, SSE2.
pub(super) fn enable() -> Features {
    let cpuid = CpuId::new();
    let basic = cpuid.get_feature_info();
    let extended = cpuid.get_extended_feature_info();
    let features = Features {
        smep: extended.as_ref().is_some_and(|info| info.has_smep()),
        smap: extended.as_ref().is_some_and(|info| info.has_smap()),
        umip: extended.as_ref().is_some_and(|info| info.has_umip()),
        global_pages: basic.as_ref().is_some_and(|info| info.has_pge()),
        page_attributes: basic.as_ref().is_some_and(|info| info.has_pat()),
    };
    let mut cr4 = Cr4Flags::OSFXSR | Cr4Flags::OSXMMEXCPT_ENABLE;
    cr4.set(Cr4Flags::SUPERVISOR_MODE_EXECUTION_PROTECTION, features.smep);
    cr4.set(Cr4Flags::SUPERVISOR_MODE_ACCESS_PREVENTION, features.smap);
    cr4.set(Cr4Flags::USER_MODE_INSTRUCTION_PREVENTION, features.umip);
    cr4.set(Cr4Flags::PAGE_GLOBAL, features.global_pages);
    // SAFETY: every bit is one that the CPU has; each only forbids something that the kernel does not
    // do, or enables the vector instructions that its code is full of.
    unsafe {
        Efer::update(|efer| efer.insert(EferFlags::NO_EXECUTE_ENABLE));
        Cr0::update(|cr0| {
            cr0.remove(Cr0Flags::EMULATE_COPROCESSOR | Cr0Flags::TASK_SWITCHED);
            cr0.insert(Cr0Flags::WRITE_PROTECT | Cr0Flags::MONITOR_COPROCESSOR | Cr0Flags::NUMERIC_ERROR);
        });
        Cr4::update(|flags| flags.insert(cr4));
        if features.page_attributes {
            let mut register = Msr::new(PAGE_ATTRIBUTES);
            let shift = WRITE_COMBINING_SLOT * BITS_PER_SLOT;
            let others = register.read() & !(0xff << shift);
            register.write(others | WRITE_COMBINING_TYPE << shift);
        }
    }
    features
}

/// The CPU's time-stamp counter: some thousand million per second, exact instructions under `-icount shift=0`.
pub fn time_stamp() -> u64 {
    // SAFETY: reads a counter.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// How many bits a physical address has on this CPU.
pub fn physical_address_bits() -> u8 {
    /// What a CPU without the answer has (Intel SDM 3A, 4.1.4).
    const DEFAULT: u8 = 36;
    CpuId::new().get_processor_capacity_feature_info().map_or(DEFAULT, |info| info.physical_address_bits())
}
