//! The swap disk, with machines that the other in-kernel tests do not have: without one, with one that fails, and with
//! its image read from outside.
//!
//! They are the kernel's `disk::tests::apart` and `disk::tests::swapped`; its list of tests leaves them out.
#![allow(clippy::unwrap_used, reason = "helpers of tests, too, end a test by a panic")]

mod support;

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use ferry::artifacts::{self, Artifact};
use ferry::kernel_tests::{Session, Suite};
use ferry::machine::MachineOptions;
use ferry::qemu::{Boot, End, Event, Machine};
use ferry::size::Size;
use ferry::swap::{SwapFault, SwapSize};
use ferry_protocol::exit::ExitCode;
use ferry_protocol::options::{Command, Options, Selection};
use support::{ferry, run};

/// The disk's size in slots, and the slot that fails; the kernel's tests have the same numbers.
const SLOTS: u64 = 256;
const BAD_SLOT: u64 = 7;

/// Pages that the kernel's tests of swapped pages swap out; page N holds the pattern of slot N.
const SWAPPED_PAGES: u64 = 64;

fn machine(slots: u64, swap_fault: Option<SwapFault>) -> MachineOptions {
    MachineOptions { swap: SwapSize::Fixed(Size(slots * 4096)), swap_fault, ..MachineOptions::default() }
}

fn full_name(test: &str) -> String {
    format!("disk::tests::apart::{test}")
}

fn passes(test: &str, machine: MachineOptions) {
    static SUITE: OnceLock<Suite> = OnceLock::new();
    machine.check().unwrap();
    let suite = SUITE.get_or_init(|| Suite::build().unwrap()).clone().with_machine(machine);
    if let Err(report) = Session::new(suite, [test.to_owned()]).run(test) {
        panic!("{report}");
    }
}

#[test]
fn disks_that_cannot_be_are_refused() {
    let refused = |arguments: &[&str], part| run(&mut ferry(arguments)).is_refused(part);
    refused(&["--swap", "5000"], "round it up");
    refused(&["--swap", "lots"], "such as 64M");
    refused(&["--swap", "9999999G"], "or --swap");
    refused(&["--swap-fault", "read:0"], "a larger size");
    refused(&["--swap", "1M", "--swap-fault", "write:256"], "a larger size");
    refused(&["--swap", "1M", "--swap-fault", "melt"], "read:SLOT, write:SLOT or stall");
}

#[test]
fn no_disk_is_no_error() {
    passes(&full_name("a_machine_without_a_disk_has_none"), machine(0, None));
}

#[test]
fn a_read_error_is_that_of_one_access() {
    passes(&full_name("reading_one_slot_fails"), machine(SLOTS, Some(SwapFault::Read(BAD_SLOT))));
}

#[test]
fn a_write_error_is_that_of_one_access() {
    passes(&full_name("writing_one_slot_fails"), machine(SLOTS, Some(SwapFault::Write(BAD_SLOT))));
}

#[test]
fn a_disk_that_does_not_answer_is_given_up() {
    passes(&full_name("a_disk_that_stalls_is_lost"), machine(SLOTS, Some(SwapFault::Stall)));
}

#[test]
fn many_requests() {
    passes(&full_name("the_rings_indices_turn_over"), machine(SLOTS, None));
}

/// What the kernel's tests fill a slot with.
fn pattern(slot: u64) -> Vec<u8> {
    (1..=512).flat_map(|place| (slot << 32 | place).to_le_bytes()).collect()
}

/// Every slot of the image after the kernel's test `name` has passed.
fn slots_after(name: &str) -> Vec<Vec<u8>> {
    let [loader, kernel] = artifacts::build([Artifact::Loader, Artifact::TestKernel]).unwrap();
    let options = Options { command: Command::Test(Selection(name)), ..Options::default() }.to_string();
    let machine = machine(SLOTS, None);
    let boot = Boot {
        machine: &machine,
        loader: &loader,
        kernel: &kernel,
        options: &options,
        input: None,
        verbose: false,
        debugger: None,
        clock: None,
    };
    let mut machine = Machine::start(&boot).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    let end = loop {
        match machine.next(deadline) {
            Event::Ended(end) => break end,
            Event::TimedOut => panic!("the kernel does not end: {:?}", machine.stop()),
            Event::Line(_) | Event::Record(_) => {}
        }
    };
    assert_eq!(end, End::Code(ExitCode::Success), "{:?}", machine.last_lines());
    let image = machine.swap().unwrap();
    assert_eq!(image.slots(), SLOTS);
    (0..SLOTS).map(|slot| image.page(slot).unwrap().unwrap().to_vec()).collect()
}

#[test]
fn the_image_holds_what_the_kernel_wrote_and_nothing_else() {
    for (slot, found) in (0..).zip(slots_after(&full_name("every_other_slot_is_written"))) {
        let expected = if slot % 2 == 1 { pattern(slot) } else { vec![0; 4096] };
        assert!(found == expected, "slot {slot} is not what the kernel wrote");
    }
}

fn swapped(test: &str) -> String {
    format!("disk::tests::swapped::{test}")
}

#[test]
fn swapped_pages_stand_in_the_image_each_once() {
    let slots = slots_after(&swapped("pages_stay_on_the_disk_for_the_host"));
    let mut found: Vec<_> = slots.into_iter().filter(|slot| slot.iter().any(|byte| *byte != 0)).collect();
    let mut expected: Vec<_> = (0..SWAPPED_PAGES).map(pattern).collect();
    found.sort_unstable();
    expected.sort_unstable();
    assert!(found == expected, "{} slots are in use, of {SWAPPED_PAGES} pages", found.len());
}

#[test]
fn swapped_pages_come_back() {
    passes(&swapped("pages_go_to_slots_of_their_own_and_come_back"), machine(SLOTS, None));
}

#[test]
fn protection_holds_for_swapped_pages() {
    passes(&swapped("protection_holds_for_pages_on_the_disk"), machine(SLOTS, None));
}

#[test]
fn a_device_reads_what_comes_back() {
    passes(&swapped("a_device_that_follows_reads_what_comes_back"), machine(SLOTS, None));
}

#[test]
fn a_read_error_is_the_error_of_one_page() {
    passes(&swapped("a_read_error_is_that_of_one_page"), machine(SLOTS, Some(SwapFault::Read(BAD_SLOT))));
}

#[test]
fn a_write_error_keeps_the_page() {
    passes(&swapped("a_write_error_loses_nothing"), machine(SLOTS, Some(SwapFault::Write(BAD_SLOT))));
}
