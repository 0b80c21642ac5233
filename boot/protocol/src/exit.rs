//! How a run ended: the one list of exit codes.
//!
//! The guest writes a code to QEMU's `isa-debug-exit` port; QEMU then ends with the status
//! `(code << 1) | 1`. Codes start at [`FIRST`] so that no status of ours is one that QEMU or a
//! shell uses for something else, and all fit the eight bits of a process status.

/// I/O port of the `isa-debug-exit` device (32-bit write ends QEMU).
pub const PORT: u16 = 0xf4;

/// The smallest code, chosen so that `(code << 1) | 1` cannot be mistaken for QEMU's own status 1.
pub const FIRST: u32 = 0x10;

macro_rules! exit_codes {
    ($($(#[doc = $doc:literal])+ $name:ident = $value:literal, $text:literal;)+) => {
        /// Why the guest ended the run.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u32)]
        pub enum ExitCode {
            $($(#[doc = $doc])+ $name = $value,)+
        }

        impl ExitCode {
            /// Every code there is.
            pub const ALL: &'static [ExitCode] = &[$(ExitCode::$name,)+];

            /// One sentence for a person: what happened and, where there is one, the remedy.
            pub const fn sentence(self) -> &'static str {
                match self { $(ExitCode::$name => $text,)+ }
            }
        }
    };
}

exit_codes! {
    /// Everything that was asked for was done and holds.
    Success = 0x10, "the kernel finished its work";
    /// The kernel checked something and it did not hold; the report is on the console.
    Failed = 0x11, "the kernel found that a check does not hold; its report is above";
    /// A Rust panic.
    Panic = 0x12, "the kernel panicked; its report is above";
    /// A CPU exception or page fault that nothing in the kernel expects.
    UnexpectedException = 0x13, "the CPU raised an exception that the kernel does not expect; its report is above";
    /// The guard page below a stack was touched.
    StackOverflow = 0x14, "a kernel stack overflowed into its guard page; the report is above";
    /// A double fault: an exception whose delivery faulted.
    DoubleFault = 0x15, "a double fault: delivering an exception failed; the report is above";
    /// A panic or exception while one was being reported.
    NestedPanic = 0x16, "the kernel panicked again while it was reporting a panic";
    /// The heap or the frame allocator has nothing left for something the kernel cannot do without.
    OutOfMemory = 0x17, "the kernel ran out of memory; give it more with --memory";
    /// An access to migrated memory failed: no memory, a dead device or a poisoned page.
    AccessFailed = 0x18, "an access to anonymous memory failed; the report above says which";
    /// A CPU that the firmware names did not start.
    CpuNotStarted = 0x19, "a CPU of the machine did not start; the line above says which";
    /// PCI enumeration found no device of ours.
    NoDevice = 0x20, "no Ferry device on the PCI bus; start QEMU with --device ivshmem";
    /// The device's BAR is missing, not memory, misaligned, too small or overlaps something.
    BadBar = 0x21, "the BAR of the device cannot be used; the report above names the reason";
    /// The control area carries another layout version than this kernel's.
    DeviceVersion = 0x22, "the control area of the device has another version; rebuild kernel and host tool together";
    /// The device did not answer within the bound.
    DeviceTimeout = 0x23, "the device did not answer in time";
    /// A completion or request that violates the ring protocol.
    DeviceProtocol = 0x24, "the device broke the ring protocol";
    /// The swap disk cannot be used.
    BadDisk = 0x25, "the swap disk cannot be used; the report above names the reason";
    /// The options text in fw_cfg is not understood.
    BadOptions = 0x28, "the options text given over fw_cfg is not understood; use ferry to start the kernel";
    /// The input does not fit into guest memory.
    InputTooLarge = 0x29, "the input does not fit; give the machine more with --memory or --swap";
    /// The host did not answer on the second serial port.
    HostTimeout = 0x2a, "the host tool did not answer on the second serial port";
    /// No kernel was given to the loader.
    LoaderNoKernel = 0x30, "the loader got no kernel; give QEMU one with -initrd";
    /// The kernel file is damaged, or is no x86-64 ELF for this loader.
    LoaderBadElf = 0x31, "the kernel file is damaged or is not an x86-64 PIE; rebuild it with cargo build";
    /// The kernel's bootloader configuration section is missing, damaged or of another version.
    LoaderBadConfig = 0x32, "the kernel has no usable bootloader_api configuration";
    /// The kernel asks for something that this loader does not do.
    LoaderUnsupported = 0x33, "the kernel asks for something this loader does not support";
    /// Not enough RAM to load the kernel.
    LoaderNoMemory = 0x34, "the machine has too little memory to load the kernel; give it more with --memory";
    /// The CPU has no long mode.
    LoaderNoLongMode = 0x35, "the CPU has no 64-bit long mode; start QEMU with -cpu max";
    /// The CPU cannot forbid execution per page.
    LoaderNoNx = 0x36, "the CPU cannot mark pages as not executable (NX); start QEMU with -cpu max";
    /// The loader itself panicked or faulted.
    LoaderPanic = 0x37, "the loader failed; its message is above";
}

impl ExitCode {
    /// The status with which QEMU's process ends after this code was written.
    pub const fn qemu_status(self) -> i32 {
        ((self as i32) << 1) | 1
    }

    /// The code behind a process status of QEMU, or `None` where the status is not one of ours.
    pub fn from_qemu_status(status: i32) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.qemu_status() == status)
    }
}

const _: () = {
    let mut i = 0;
    while i < ExitCode::ALL.len() {
        let code = ExitCode::ALL[i] as u32;
        assert!(code >= FIRST && code < 0x80, "a code must fit a process status");
        i += 1;
    }
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_distinct_and_decode_to_their_code() {
        for &code in ExitCode::ALL {
            assert_eq!(ExitCode::from_qemu_status(code.qemu_status()), Some(code));
        }
        assert_eq!(ExitCode::from_qemu_status(0), None);
        assert_eq!(ExitCode::from_qemu_status(1), None);
    }
}
