//! What a kernel asks of the loader: its configuration section, and where everything goes
//!
//! The input is either the section, byte by byte, or the fields of one that is well formed: a byte that says which wishes there
//! are, then an address or a size of eight bytes for each.
//!
//! Oracle: what `bootloader_api` was given must be what the loader read, and whatever gets a place has it alone.
use bootloader_api::BootloaderConfig;
use bootloader_api::config::Mapping;
use ferry_loader::config::{Field, Request};
use ferry_loader::elf;
use ferry_loader::layout::{LayoutError, place};

use crate::oracle::layout::{SIZES, check_layout};
use crate::{Target, sample};

/// See the module.
pub const TARGET: Target = Target { name: "request", check, seeds, most_bytes: 256 };

/// Flag: the rest of the input is the section as it is.
const RAW: u8 = 0x80;

/// Flag: the kernel is linked to a fixed address.
const FIXED_KERNEL: u8 = 0x40;

/// The next number; zeros where the input is at its end.
fn number(rest: &mut &[u8]) -> u64 {
    let (taken, left) = rest.split_at(rest.len().min(size_of::<u64>()));
    *rest = left;
    taken.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// The well-formed configuration with these wishes.
fn config(flags: u8, mut rest: &[u8]) -> BootloaderConfig {
    let mut config = BootloaderConfig::new_default();
    config.kernel_stack_size = number(&mut rest);
    let mut wish = |bit: u8| (flags & 1 << bit != 0).then(|| number(&mut rest));
    let fixed = |address: Option<u64>| address.map_or(Mapping::Dynamic, Mapping::FixedAddress);
    config.mappings.kernel_stack = fixed(wish(0));
    config.mappings.kernel_base = fixed(wish(1));
    config.mappings.boot_info = fixed(wish(2));
    config.mappings.physical_memory = wish(3).map(Mapping::FixedAddress);
    config.mappings.dynamic_range_start = wish(4);
    config.mappings.dynamic_range_end = wish(5);
    config
}

fn check(input: &[u8]) {
    let Some((flags, rest)) = input.split_first() else { return };
    let request = if flags & RAW != 0 {
        Request::read(Some(rest))
    } else {
        let config = config(*flags, rest);
        let request = Request::read(Some(&config.serialize()));
        if let Ok(request) = &request {
            let asked = (config.kernel_stack_size, config.mappings.kernel_stack, config.mappings.kernel_base);
            assert_eq!(asked, (request.stack_bytes, request.stack, request.image));
            let asked = (config.mappings.boot_info, config.mappings.physical_memory);
            assert_eq!(asked, (request.boot_info, request.physical_memory));
        }
        request
    };
    let request = match request {
        Ok(request) => request,
        Err(error) => return assert!(!error.to_string().is_empty(), "an error has a text"),
    };
    let file = sample::kernel(flags & FIXED_KERNEL == 0);
    let image = elf::plan(&file).expect("the sample is a kernel");
    match place(&request, &image, SIZES) {
        Ok(layout) => check_layout(&request, &image, &layout),
        Err(LayoutError::NoGap(Field::KernelBase, _)) if request.dynamic_start.or(request.dynamic_end).is_none() => {
            // Four things of a few gibibytes leave room in 128 tebibytes.
            panic!("there is room for the kernel")
        }
        Err(error) => assert!(!error.to_string().is_empty(), "an error has a text"),
    }
}

/// An input with these flags and numbers.
fn fields(flags: u8, numbers: &[u64]) -> Vec<u8> {
    let mut input = vec![flags];
    input.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
    input
}

fn seeds() -> Vec<Vec<u8>> {
    const UPPER: u64 = 0xffff_8000_0000_0000;
    const TOP: u64 = 0xffff_ffff_ffff_f000;
    let mut raw = vec![RAW];
    raw.extend(BootloaderConfig::new_default().serialize());
    vec![
        raw,
        fields(0, &[0x5000]),
        fields(0b1111, &[0x5000, UPPER + (1 << 40), TOP - (1 << 31), UPPER + (2 << 40), UPPER]),
        fields(0b11_1000, &[0x5000, UPPER, UPPER + (1 << 41), TOP]),
        fields(0b11_0000, &[0x5000, 0x1000, 0x4000_0000_0000]),
        fields(FIXED_KERNEL | 0b1, &[0x1_0000, TOP - 0x1_1000]),
    ]
}
