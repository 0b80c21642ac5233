//! What command lines become.
use super::*;
use crate::device::{DeviceError, Ivshmem};
use clap::CommandFactory;
use ferry_device::DeviceType;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    let arguments = std::iter::once("ferry").chain(line.split_whitespace()).map(OsString::from).collect();
    Cli::try_parse_from(with_default_command(arguments))
}

fn demo(line: &str) -> DemoArguments {
    match parse(line).unwrap().command {
        Command::Demo(demo) => demo,
        other => panic!("{line} became {other:?}"),
    }
}

#[test]
fn the_definition_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn without_a_command_it_is_the_demo() {
    let machine = |line| MachineOptions::try_from(demo(line).machine);
    assert_eq!(machine(""), Ok(MachineOptions::default()));
    let coherent = Ivshmem::of_type(DeviceType::Coherent);
    let both = machine("--device ivshmem --device ivshmem,type=coherent").unwrap();
    assert_eq!(both.devices, [Ivshmem::default(), coherent]);
    assert_eq!(machine("--device none").unwrap().devices, []);
    assert_eq!(machine("--device none --device ivshmem"), Err(DeviceError::NoneAndSome.into()));
    assert_eq!(demo("--vram 4M").machine.vram, Size::mebibytes(4));
    assert_eq!(demo("--swap 16M --swap-fault write:7").machine.swap_fault, Some(SwapFault::Write(7)));
    assert_eq!(demo("demo --inject copy:3").inject.unwrap().to_string(), "copy:3");
    assert!(parse("--help").is_err_and(|error| !error.use_stderr()));
    assert!(matches!(parse("doctor").unwrap().command, Command::Doctor));
}

#[test]
fn what_is_not_understood_is_one_sentence() {
    for (line, part) in [
        ("dance", "'dance'"),
        ("demo --speed 3", "'--speed'"),
        ("--memory 1.5G", "a size is a whole number"),
        ("--device edu", "'edu' is no device"),
        ("--swap some", "such as 64M"),
        ("--swap-fault read", "read:SLOT, write:SLOT or stall"),
        ("--inject tea:1", "alloc:N, device-alloc:N, copy:N, disk-read:N, disk-write:N"),
        ("--inject copy:0", "with N from 1"),
        ("--timeout 0", "'--timeout <SECONDS>'"),
        ("--cpus 9", "9 is not in 1..=8"),
        ("--accel fast", "'--accel <ACCEL>'"),
        ("--input", "'--input <FILE>'"),
        ("boot", "<KERNEL>"),
    ] {
        let sentence = one_sentence(&parse(line).unwrap_err().to_string());
        assert!(sentence.contains(part) && !sentence.contains('\n'), "{line}: {sentence}");
    }
}
