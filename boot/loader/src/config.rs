//! What the kernel asks for: its `bootloader_api` configuration, and what this loader refuses of it.
//!
//! Invariant: a [`Request`] holds only what the loader does. A field that it does not know how to
//! honour is an error that names the field, never ignored.
use bootloader_api::config::{ApiVersion, Mapping};
use bootloader_api::{BootloaderConfig, config};
use core::fmt;

/// Offset of the version in the serialized configuration, behind the 16 bytes of its UUID.
const VERSION_OFFSET: usize = 16;

/// Smallest stack that a kernel can start on, in bytes.
const MIN_STACK_BYTES: u64 = 4096;

/// Largest stack, in bytes: more is a damaged number, not a wish.
const MAX_STACK_BYTES: u64 = 1 << 30;

/// A field of the configuration, by the name it has in `BootloaderConfig`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Field {
    /// `kernel_stack_size`.
    KernelStackSize,
    /// `mappings.kernel_stack`.
    KernelStack,
    /// `mappings.kernel_base`.
    KernelBase,
    /// `mappings.boot_info`.
    BootInfo,
    /// `mappings.physical_memory`.
    PhysicalMemory,
    /// `mappings.framebuffer`.
    Framebuffer,
    /// `mappings.page_table_recursive`.
    PageTableRecursive,
    /// `mappings.aslr`.
    Aslr,
    /// `mappings.dynamic_range_start` and `mappings.dynamic_range_end`.
    DynamicRange,
    /// `mappings.ramdisk_memory`.
    RamdiskMemory,
    /// `frame_buffer.minimum_framebuffer_height` or `..._width`.
    MinimumFramebuffer,
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::KernelStackSize => "kernel_stack_size",
            Self::KernelStack => "mappings.kernel_stack",
            Self::KernelBase => "mappings.kernel_base",
            Self::BootInfo => "mappings.boot_info",
            Self::PhysicalMemory => "mappings.physical_memory",
            Self::Framebuffer => "mappings.framebuffer",
            Self::PageTableRecursive => "mappings.page_table_recursive",
            Self::Aslr => "mappings.aslr",
            Self::DynamicRange => "mappings.dynamic_range_start/end",
            Self::RamdiskMemory => "mappings.ramdisk_memory",
            Self::MinimumFramebuffer => "frame_buffer",
        })
    }
}

/// A version of `bootloader_api`, for messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Version(pub u16, pub u16, pub u16);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// Why a configuration cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConfigError {
    /// The file has no `.bootloader-config` section.
    Missing,
    /// The section is damaged; the text is `bootloader_api`'s.
    Damaged(&'static str),
    /// Kernel and loader were built with different versions, whose structures may differ.
    Version {
        /// The kernel's.
        kernel: Version,
        /// The loader's.
        loader: Version,
    },
    /// The kernel asks for something that this loader does not do.
    Unsupported(Field),
    /// The stack size is zero, less than a page or beyond reason.
    StackSize(u64),
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => {
                f.write_str("it has no .bootloader-config section; declare its entry with bootloader_api::entry_point!")
            }
            Self::Damaged(what) => write!(f, "its .bootloader-config section is damaged ({what})"),
            Self::Version { kernel, loader } => {
                write!(f, "it uses bootloader_api {kernel}, the loader {loader}; build both from one lock file")
            }
            Self::Unsupported(field) => write!(f, "it asks for {field}, which this loader does not support"),
            Self::StackSize(bytes) => {
                write!(
                    f,
                    "its kernel_stack_size of {bytes} bytes is not between {MIN_STACK_BYTES} and {MAX_STACK_BYTES}"
                )
            }
        }
    }
}

impl core::error::Error for ConfigError {}

/// What the loader shall do; every field can be honoured, unless addresses conflict.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    /// Size of the stack in bytes.
    pub stack_bytes: u64,
    /// Where the guard page goes, with the stack behind it.
    pub stack: Mapping,
    /// Where the kernel goes.
    pub image: Mapping,
    /// Where `BootInfo` goes.
    pub boot_info: Mapping,
    /// Where the direct map of RAM goes, if one is wanted.
    pub physical_memory: Option<Mapping>,
    /// Lowest address for everything dynamic, if limited.
    pub dynamic_start: Option<u64>,
    /// Highest address for everything dynamic, if limited.
    pub dynamic_end: Option<u64>,
}

impl Request {
    /// Reads the section that `bootloader_api::entry_point!` makes.
    ///
    /// # Errors
    /// [`ConfigError`], of which [`ConfigError::Unsupported`] means that the section is fine but asks too much.
    pub fn read(section: Option<&[u8]>) -> Result<Self, ConfigError> {
        let section = section.ok_or(ConfigError::Missing)?;
        check_version(section)?;
        let config = BootloaderConfig::deserialize(section).map_err(ConfigError::Damaged)?;
        let mappings = &config.mappings;
        let fixed = |mapping: Mapping| matches!(mapping, Mapping::FixedAddress(_));
        let refused = [
            (mappings.page_table_recursive.is_some(), Field::PageTableRecursive),
            (mappings.aslr, Field::Aslr),
            (fixed(mappings.framebuffer), Field::Framebuffer),
            (fixed(mappings.ramdisk_memory), Field::RamdiskMemory),
            (wants_framebuffer(&config), Field::MinimumFramebuffer),
        ];
        if let Some((_, field)) = refused.into_iter().find(|(asked, _)| *asked) {
            return Err(ConfigError::Unsupported(field));
        }
        if !(MIN_STACK_BYTES..=MAX_STACK_BYTES).contains(&config.kernel_stack_size) {
            return Err(ConfigError::StackSize(config.kernel_stack_size));
        }
        Ok(Self {
            stack_bytes: config.kernel_stack_size,
            stack: mappings.kernel_stack,
            image: mappings.kernel_base,
            boot_info: mappings.boot_info,
            physical_memory: mappings.physical_memory,
            dynamic_start: mappings.dynamic_range_start,
            dynamic_end: mappings.dynamic_range_end,
        })
    }
}

/// `BootInfo` grows with patch versions, so only the very same version is known to fit.
fn check_version(section: &[u8]) -> Result<(), ConfigError> {
    let number = |index: usize| {
        let bytes = section.get(VERSION_OFFSET + 2 * index..)?.first_chunk()?;
        Some(u16::from_le_bytes(*bytes))
    };
    let (Some(major), Some(minor), Some(patch)) = (number(0), number(1), number(2)) else {
        return Err(ConfigError::Damaged("too short for a version"));
    };
    let own = ApiVersion::default();
    let loader = Version(own.version_major(), own.version_minor(), own.version_patch());
    let kernel = Version(major, minor, patch);
    if kernel == loader { Ok(()) } else { Err(ConfigError::Version { kernel, loader }) }
}

#[allow(deprecated, reason = "an old kernel may still ask this way, and must be told")]
fn wants_framebuffer(config: &BootloaderConfig) -> bool {
    config.frame_buffer != config::FrameBuffer::new_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(change: impl FnOnce(&mut BootloaderConfig)) -> Result<Request, ConfigError> {
        let mut config = BootloaderConfig::new_default();
        change(&mut config);
        Request::read(Some(&config.serialize()))
    }

    #[test]
    fn what_is_asked_arrives() {
        let request = read(|config| {
            config.kernel_stack_size = 0x5000;
            config.mappings.kernel_base = Mapping::FixedAddress(0xffff_ffff_8000_0000);
            config.mappings.physical_memory = Some(Mapping::FixedAddress(0xffff_8000_0000_0000));
            config.mappings.dynamic_range_start = Some(7);
        });
        assert_eq!(
            request,
            Ok(Request {
                stack_bytes: 0x5000,
                stack: Mapping::Dynamic,
                image: Mapping::FixedAddress(0xffff_ffff_8000_0000),
                boot_info: Mapping::Dynamic,
                physical_memory: Some(Mapping::FixedAddress(0xffff_8000_0000_0000)),
                dynamic_start: Some(7),
                dynamic_end: None,
            })
        );
    }

    #[test]
    #[allow(deprecated, reason = "the refusal of the deprecated field is what is tested")]
    fn what_is_not_done_is_refused_by_name() {
        let unsupported = |field| Err(ConfigError::Unsupported(field));
        let fixed = Mapping::FixedAddress(0x1000);
        assert_eq!(
            read(|c| c.mappings.page_table_recursive = Some(Mapping::Dynamic)),
            unsupported(Field::PageTableRecursive)
        );
        assert_eq!(read(|c| c.mappings.aslr = true), unsupported(Field::Aslr));
        assert_eq!(read(|c| c.mappings.framebuffer = fixed), unsupported(Field::Framebuffer));
        assert_eq!(read(|c| c.mappings.ramdisk_memory = fixed), unsupported(Field::RamdiskMemory));
        let mut minimum = config::FrameBuffer::new_default();
        minimum.minimum_framebuffer_width = Some(640);
        assert_eq!(read(|c| c.frame_buffer = minimum), unsupported(Field::MinimumFramebuffer));
        for bytes in [0, 4095, u64::MAX] {
            assert_eq!(read(|c| c.kernel_stack_size = bytes), Err(ConfigError::StackSize(bytes)));
        }
    }

    #[test]
    fn damaged_and_foreign_sections_are_errors() {
        assert_eq!(Request::read(None), Err(ConfigError::Missing));
        let good = BootloaderConfig::new_default().serialize();
        for length in 0..good.len() {
            assert!(Request::read(Some(&good[..length])).is_err());
        }
        let mut uuid = good;
        uuid[0] ^= 1;
        assert_eq!(Request::read(Some(&uuid)), Err(ConfigError::Damaged("invalid UUID")));
        for byte in VERSION_OFFSET..VERSION_OFFSET + 6 {
            let mut other = good;
            other[byte] ^= 1;
            assert!(matches!(Request::read(Some(&other)), Err(ConfigError::Version { .. })));
        }
        // No single damaged byte may crash the loader.
        for byte in 0..good.len() {
            let mut damaged = good;
            damaged[byte] ^= 0xff;
            let _ = Request::read(Some(&damaged));
        }
    }
}
