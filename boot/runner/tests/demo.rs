//! The demo end to end: real boots, with every number of the result checked.
#![allow(clippy::unwrap_used, reason = "helpers of tests, too, end a test by a panic")]

mod support;

use sha2::{Digest, Sha256};
use std::time::{Duration, Instant};
use support::{Ran, Scratch, demo, noise, number, text};
use tinyjson::JsonValue;

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Ferries `bytes` to private devices, with further arguments, and checks everything that must hold for any input.
fn ferried(bytes: &[u8], arguments: &[&str]) -> (Ran, JsonValue) {
    let (ran, json) = ferried_anywhere(bytes, arguments);
    assert_eq!(number(&json, "faults"), number(&json, "pages"), "each page comes home by a fault of its own");
    (ran, json)
}

/// The same for devices of any type.
fn ferried_anywhere(bytes: &[u8], arguments: &[&str]) -> (Ran, JsonValue) {
    let scratch = Scratch::new();
    let input = scratch.file("input, with a comma and spaces", bytes);
    let (ran, json) = demo(&[arguments, &["--input", input.to_str().unwrap()]].concat());
    ran.is_verified();
    let json = json.expect("a verified run writes its JSON");
    let pages = bytes.len().div_ceil(4096) as u64;
    for count in ["pages", "migrated", "host_verified", "device_transformed", "returned"] {
        assert_eq!(number(&json, count), pages, "{count}");
    }
    for none in ["frames", "device_frames", "swap_slots", "table_frames"] {
        assert_eq!(number(&json, &format!("leaked.{none}")), 0, "{none}");
    }
    assert_eq!(number(&json, "stale_device_bytes"), 0);
    assert_eq!(number(&json, "input.bytes"), bytes.len() as u64);
    assert_eq!(*json["input"]["sha256"].get::<String>().unwrap(), sha256(bytes));
    let inverted: Vec<u8> = bytes.iter().map(|byte| !byte).collect();
    assert_eq!(text(&json, "sha256_expected"), sha256(&inverted));
    assert_eq!(text(&json, "sha256_after"), sha256(&inverted));
    assert!(*json["verified"].get::<bool>().unwrap());
    let per_cpu = json["per_cpu"].get::<Vec<JsonValue>>().expect("counts of each CPU");
    assert_eq!(number(&json, "cpus"), per_cpu.len() as u64);
    let faults: u64 = per_cpu.iter().map(|cpu| number(cpu, "faults")).sum();
    assert_eq!(faults, number(&json, "faults"));
    assert!(json["error"].is_null() && number(&json, "wall_ms") > 0);
    (ran, json)
}

#[test]
fn the_kernels_own_image_goes_there_and_back() {
    let (ran, json) = demo(&[]);
    ran.is_verified();
    assert!(number(&json.unwrap(), "pages") > 10);
    // One page is shown on its way: before, on the device, and home.
    assert_eq!(ran.out.matches("L1[").count(), 3, "{}", ran.out);
    assert_eq!(ran.out.matches("not present: on device 0, device frame").count(), 1, "{}", ran.out);
    assert!(!ran.out.contains('\u{1b}') && !ran.err.contains('\u{1b}'), "a pipe gets plain text");
}

#[test]
fn an_odd_number_of_random_bytes() {
    let (_, json) = ferried(&noise(5_000_003), &[]);
    assert_eq!((number(&json, "pages"), number(&json, "rounds")), (1221, 1));
}

#[test]
fn a_device_smaller_than_the_input_takes_it_in_rounds() {
    let (_, json) = ferried(&noise(16 << 20), &["--vram", "4M"]);
    assert!(number(&json, "rounds") >= 4);
    assert!(number(&json, "stayed.device-full") > 0);
}

#[test]
fn four_cpus_go_and_come_home_at_once() {
    for (arguments, rounds) in [(&["--cpus", "4"][..], 1), (&["--cpus", "4", "--vram", "4M"], 5)] {
        let (_, json) = ferried(&noise(16 << 20), arguments);
        assert_eq!((number(&json, "cpus"), number(&json, "rounds") >= rounds), (4, true));
        let per_cpu = json["per_cpu"].get::<Vec<JsonValue>>().unwrap();
        for (index, cpu) in per_cpu.iter().enumerate() {
            assert_eq!(number(cpu, "cpu"), index as u64);
            // Its part: a quarter of the input, whatever the device had room for in a round.
            assert_eq!(number(cpu, "faults"), 1024, "CPU {index}");
            // Each of its calls flushes itself.
            assert!(number(cpu, "flushes") > 0, "CPU {index}");
        }
        // One CPU is not interrupted by itself, and a flush costs another at most one interrupt.
        let (ipis, flushes) = per_cpu
            .iter()
            .fold((0, 0), |(ipis, flushes), cpu| (ipis + number(cpu, "ipis"), flushes + number(cpu, "flushes")));
        assert!(ipis < flushes, "{ipis} interrupts, {flushes} flushes");
    }
}

#[test]
fn a_small_machine() {
    ferried(&noise(1 << 20), &["--memory", "64M"]);
}

#[test]
fn the_smallest_machine_with_all_that_fits() {
    ferried(&noise(6 << 20), &["--memory", "32M", "--vram", "1M"]);
}

#[test]
fn ram_on_both_sides_of_the_hole() {
    ferried(&noise(1 << 20), &["--memory", "4G", "--vram", "1G"]);
}

#[test]
fn one_byte_one_page_and_one_more() {
    for count in [1, 4096, 4097] {
        ferried(&noise(count), &[]);
    }
}

#[test]
fn an_empty_file_is_a_run_over_no_pages() {
    let (_, json) = ferried(&[], &[]);
    assert_eq!(number(&json, "rounds"), 0);
}

#[test]
fn the_device_is_found_wherever_it_is() {
    for place in ["ivshmem,addr=30", "ivshmem,bus=bridge", "ivshmem,bus=bridge,addr=9"] {
        ferried(&noise(10_000), &["--device", place]);
    }
}

/// What the JSON says of each device: number, type, and its four counts, which must be the same.
fn device_counts(json: &JsonValue) -> Vec<(u64, String, u64)> {
    let devices = json["devices"].get::<Vec<_>>().unwrap();
    let counts = devices.iter().map(|device| {
        let pages = number(device, "host_verified");
        for count in ["migrated", "transformed", "returned"] {
            assert_eq!(number(device, count), pages, "{count} of {device:?}");
        }
        (number(device, "number"), text(device, "type").to_owned(), pages)
    });
    counts.collect()
}

#[test]
fn strict_mode_tells_of_every_access_that_brings_a_page_home() {
    let (ran, json) = ferried(&noise(300 * 4096), &["--strict"]);
    assert_eq!((number(&json, "strict.reported"), number(&json, "strict.lost")), (300, 0));
    let lines: Vec<_> = ran.out.lines().filter(|line| line.contains("strict: a load at v0x")).collect();
    assert_eq!(lines.len(), 300);
    // The input begins at this address; every page is named once, and so is the function that touched it.
    for (page, line) in lines.iter().enumerate() {
        let address = format!("v{:#018x} ", 0x1234_5678_9000_u64 + page as u64 * 4096);
        assert!(line.contains(&address) && line.contains("load_byte at kernel/src/arch/areas.rs:"), "{line}");
    }
    let (_, json) = ferried(&noise(4096), &[]);
    assert!(json["strict"].is_null());
}

#[test]
fn several_devices_share_the_input() {
    let devices = ["--device", "ivshmem,addr=9", "--device", "ivshmem,bus=bridge", "--device", "ivshmem,addr=3"];
    // 600 pages, and 248 frames in each device.
    let (_, json) = ferried(&noise(600 * 4096), &[&devices[..], &["--vram", "1M"]].concat());
    assert_eq!(number(&json, "rounds"), 1);
    let counts = device_counts(&json);
    assert_eq!(counts, [0, 1, 2].map(|number| (number, "private".to_owned(), 200)));
}

#[test]
fn a_private_and_a_coherent_device_share_the_input() {
    let devices = ["--device", "ivshmem", "--device", "ivshmem,type=coherent", "--vram", "1M"];
    // 701 pages, and 248 frames in each device: two rounds.
    let (ran, json) = ferried_anywhere(&noise(701 * 4096 - 5), &devices);
    let [private, coherent] = [(0, "private", 350), (1, "coherent", 351)].map(|(n, t, pages)| (n, t.to_owned(), pages));
    assert_eq!(device_counts(&json), [private, coherent]);
    assert_eq!((number(&json, "rounds"), number(&json, "faults")), (2, 350));
    // The sample page is the first of the coherent device's: its entry is present and leads out of RAM.
    assert_eq!(ran.out.matches("L1[").count(), 3, "{}", ran.out);
    assert!(!ran.out.contains("not present: on device 1"), "{}", ran.out);
}

#[test]
fn an_input_larger_than_ram_goes_by_way_of_the_swap_disk() {
    let (ran, json) = ferried(&noise(32 << 20), &["--memory", "32M", "--vram", "8M"]);
    let swapped = |key| number(&json, key);
    // At least what does not fit had to go, and to come back.
    assert!(swapped("swapped_out") > 1024 && swapped("swapped_in") > 1024, "{}", ran.out);
    assert!(ran.out.contains("of the input on the swap disk), byte for byte the file"), "{}", ran.out);
    assert!(number(&json, "rounds") > 4);
}

#[test]
fn a_failed_write_to_the_swap_disk_loses_nothing() {
    let arguments = ["--memory", "32M", "--vram", "8M", "--inject", "disk-write:3"];
    let (_, json) = ferried(&noise(32 << 20), &arguments);
    assert!(*json["injected"].get::<bool>().unwrap());
}

#[test]
fn a_failed_read_of_the_swap_disk_is_an_error_and_no_wrong_byte() {
    let scratch = Scratch::new();
    let input = scratch.file("input", noise(32 << 20));
    let arguments = ["--memory", "32M", "--vram", "8M", "--inject", "disk-read:5", "--input"];
    let (ran, json) = demo(&[&arguments[..], &[input.to_str().unwrap()]].concat());
    ran.has_failed("the kernel found that a check does not hold");
    assert!(ran.out.contains("cannot be read from the swap disk"), "{}", ran.out);
    assert!(!*json.unwrap()["verified"].get::<bool>().unwrap());
}

#[test]
fn without_a_device_the_kernel_says_so() {
    let before = Instant::now();
    let (ran, json) = demo(&["--device", "none"]);
    ran.has_failed("no Ferry device on the PCI bus");
    let json = json.expect("a failed run writes its JSON too");
    assert!(!*json["verified"].get::<bool>().unwrap() && json["sha256_after"].is_null());
    assert!(text(&json, "error").contains("PCI"));
    assert!(Duration::from_millis(number(&json, "wall_ms")) < Duration::from_secs(5), "{:?}", before.elapsed());
}

#[test]
fn a_bad_device_is_told_apart() {
    for (fault, part) in [
        ("wrong-version", "has another version"),
        ("too-small", "BAR of the device cannot be used"),
        ("never-answers", "did not answer in time"),
        ("bogus-completion", "broke the ring protocol"),
    ] {
        let (ran, _) = demo(&["--device", &format!("ivshmem,fault={fault}")]);
        ran.has_failed(part);
    }
}

#[test]
fn a_damaged_kernel_is_refused_by_the_loader() {
    let scratch = Scratch::new();
    let [kernel] = ferry::artifacts::build([ferry::artifacts::Artifact::Kernel]).unwrap();
    let whole = std::fs::read(kernel).unwrap();
    let mut foreign = whole.clone();
    // e_machine, offset 18 of the ELF header: 183 is AArch64.
    foreign[18] = 183;
    for (name, bytes) in [("cut", &whole[..5000]), ("text", b"not a kernel at all".as_slice()), ("foreign", &foreign)] {
        let kernel = scratch.file(name, bytes);
        let ran = support::run(support::ferry(&["boot"]).arg(&kernel));
        ran.has_failed("damaged or is not an x86-64 PIE");
    }
}

/// Fails the N-th step of `kind` for N from 1, until the demo is over before it comes to that.
fn every_step_can_fail(kind: &str) {
    const MOST_STEPS: u32 = 200;
    let scratch = Scratch::new();
    // Few pages, since each step is a boot; they reach every kind of step.
    let input = scratch.file("input", noise(5 * 4096 - 1));
    for count in 1..MOST_STEPS {
        let inject = format!("{kind}:{count}");
        let (ran, json) = demo(&["--inject", &inject, "--input", input.to_str().unwrap()]);
        assert!(ran.status <= 1, "{inject}: {}{}", ran.out, ran.err);
        let json = json.expect("every run writes its JSON");
        let verified = *json["verified"].get::<bool>().unwrap();
        assert_eq!(verified, ran.status == 0, "{inject}");
        if !verified {
            // A clear report, and neither a wrong byte nor a leak.
            let known = ["ran out of memory", "an access to anonymous memory failed"];
            assert!(known.iter().any(|part| ran.err.contains(part)), "{inject}: {}\n{}", ran.err, ran.out);
        } else if json["injected"].get::<bool>() == Some(&false) {
            assert!(count > 1, "no step of this kind was ever made");
            return;
        }
    }
    panic!("after {MOST_STEPS} runs the kernel still does not say that no step was left to fail");
}

#[test]
fn every_allocation_can_fail() {
    every_step_can_fail("alloc");
}

#[test]
fn every_device_allocation_can_fail() {
    every_step_can_fail("device-alloc");
}

#[test]
fn every_copy_can_fail() {
    every_step_can_fail("copy");
}
