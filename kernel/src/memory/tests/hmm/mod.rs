//! The peer suite: the tests of Linux's `tools/testing/selftests/mm/hmm-tests.c` that a private anonymous page can go through,
//! by their names and with what they expect.
//!
//! ```text
//!   the peer                              here
//!   ────────                              ────
//!   a process                             an address space that this CPU has entered
//!   /dev/hmm_dmirror0..3                  devices 0 and 1 (private), 2 and 3 (coherent), played by the host
//!   HMM_DMIRROR_READ, WRITE               the device's own operations: DMA by the host, through the device's page table
//!   cmd.ptr, the mirror                   device frames that the operation fills or empties
//!   cmd.cpages, cmd.faults                pages of the operation, misses that were answered
//!   -EFAULT, -EPERM of an access          the end of the operation: Fault, NotPermitted
//!   -EINVAL of a migration                MigrateError::Invalid
//!   -ENOENT of a migration                the call succeeds, and the page stays with its reason
//! ```
//!
//! Each test runs twice: below [`private`], with devices 0 and 1, and below [`coherent`], with devices 2 and 3.
//! Where the peer has a second thread, the concurrency here is the device's, which works while the CPU goes on.
mod access;
mod child;
mod exclusive;
mod migrate;
mod moved;
mod several;

use ferry_device::DeviceType;
use ferry_mm::frame::DeviceId;

use super::device_numbered;
use crate::harness::TestFailure;

/// Pages of the peer's buffers (`HMM_BUFFER_SIZE`).
const BUFFER_PAGES: u64 = 1024;

/// Rounds of its repeated tests (`NTIMES`).
const ROUNDS: u32 = 10;

/// The two devices of a variant of the peer's fixtures.
#[derive(Clone, Copy)]
struct Variant {
    device_type: DeviceType,
    first: DeviceId,
    second: DeviceId,
}

impl Variant {
    fn of(device_type: DeviceType, first: u8) -> Result<Self, TestFailure> {
        Ok(Self { device_type, first: device_numbered(first)?, second: device_numbered(first + 1)? })
    }

    fn is_coherent(self) -> bool {
        self.device_type == DeviceType::Coherent
    }
}

/// Registers every test of the suite for one variant.
macro_rules! variant {
    ($module:ident, $device_type:ident, $first:literal: $($group:ident::$name:ident)+) => {
        mod $module {
            use super::Variant;
            use crate::harness::{TestResult, kernel_test};
            use ferry_device::DeviceType;

            kernel_test! {
                $(fn $name() -> TestResult {
                    super::$group::$name(Variant::of(DeviceType::$device_type, $first)?)
                })+
            }
        }
    };
}

/// Both variants of the suite.
macro_rules! suite {
    ($($group:ident::$name:ident)+) => {
        variant! { private, Private, 0: $($group::$name)+ }
        variant! { coherent, Coherent, 2: $($group::$name)+ }
    };
}

suite! {
    access::open_close
    access::anon_read
    access::anon_read_prot
    access::anon_write
    access::anon_write_prot
    access::anon_read_multiple
    access::anon_teardown
    child::anon_write_child
    child::anon_write_child_shared
    child::hmm_cow_in_device
    migrate::migrate
    migrate::migrate_fault
    migrate::migrate_release
    migrate::migrate_shared
    migrate::migrate_multiple
    migrate::hmm_gup_test
    several::migrate_mixed
    several::snapshot
    several::double_map
    exclusive::exclusive
    exclusive::exclusive_mprotect
    exclusive::exclusive_cow
    moved::migrate_partial_unmap_fault
    moved::migrate_remap_fault
}
