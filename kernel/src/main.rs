//! The kernel that the demo boots.
#![no_std]
#![no_main]

ferry_kernel::entry!();
