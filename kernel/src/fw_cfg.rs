//! Files that the host offers: the reader of [`ferry_fw_cfg`] on the machine's device.
#![deny(unsafe_code)]
use crate::arch::fw_cfg_ports::Transfer;
pub use ferry_fw_cfg::{CHUNK_BYTES, File, FwCfgError};

/// The device.
pub type FwCfg = ferry_fw_cfg::FwCfg<Transfer>;

/// Finds the device.
///
/// # Errors
/// It is not there, cannot do what we need, or has a user already.
pub fn open() -> Result<FwCfg, FwCfgError> {
    FwCfg::new(Transfer::take().ok_or(FwCfgError::Taken)?)
}

#[cfg(feature = "tests")]
mod tests {
    use super::*;
    use crate::harness::{TestResult, check, check_eq, kernel_test};
    use alloc::vec::Vec;

    /// A file that QEMU itself offers: the ACPI tables, some 128 KiB.
    const TABLES: &str = "etc/acpi/tables";

    kernel_test! {
        fn chunks_make_up_the_file_in_any_order() -> TestResult {
            let mut fw_cfg = open()?;
            let file = fw_cfg.file(TABLES)?;
            check!(file.len() > 2 * CHUNK_BYTES as u64, "{} bytes are too few for this test", file.len())?;
            let mut whole = Vec::new();
            whole.try_reserve_exact(file.len() as usize)?;
            whole.resize(file.len() as usize, 0);
            fw_cfg.read_whole(&file, &mut whole)?;
            // The tables begin with the header of one: four letters.
            check!(whole[..4].iter().all(u8::is_ascii_uppercase), "a table begins with {:x?}", &whole[..4])?;
            let last = file.len() - 1;
            for offset in [last, 0, CHUNK_BYTES as u64 + 5, 1, 2 * CHUNK_BYTES as u64] {
                let chunk = fw_cfg.chunk(&file, offset)?;
                check_eq!(chunk.len() as u64, (file.len() - offset).min(CHUNK_BYTES as u64));
                check!(chunk == &whole[offset as usize..][..chunk.len()], "the chunk at {offset} differs")?;
            }
            check_eq!(fw_cfg.chunk(&file, file.len())?.len(), 0);
            check_eq!(fw_cfg.chunk(&file, u64::MAX)?.len(), 0);
            Ok(())
        }

        fn a_missing_file_is_named() -> TestResult {
            let mut fw_cfg = open()?;
            check_eq!(fw_cfg.file("opt/ferry/no-such-file"), Err(FwCfgError::Missing("opt/ferry/no-such-file")));
            Ok(())
        }

        fn a_buffer_that_is_too_small_is_refused() -> TestResult {
            let mut fw_cfg = open()?;
            let file = fw_cfg.file(TABLES)?;
            check_eq!(fw_cfg.read_whole(&file, &mut [0; 8]), Err(FwCfgError::TooLong(TABLES, file.len(), 8)));
            Ok(())
        }

        fn there_is_one_user_at_a_time() -> TestResult {
            let first = open()?;
            check_eq!(open().err(), Some(FwCfgError::Taken));
            drop(first);
            check_eq!(open().err(), None);
            Ok(())
        }
    }
}
