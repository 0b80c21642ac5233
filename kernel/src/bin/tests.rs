//! The kernel with the in-kernel tests in it.
#![no_std]
#![no_main]

ferry_kernel::entry!();
