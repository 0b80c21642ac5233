//! A run in which everything holds, and each number changed in turn.
use super::*;
use crate::demo::Options;
use crate::device::Ivshmem;
use crate::machine::MachineOptions;
use ferry_protocol::options::Trace;

/// A run over three pages in two rounds in which everything holds.
fn good() -> Summary {
    let directory = crate::run_dir::RunDir::create(0).unwrap();
    let path = directory.file("input");
    std::fs::write(&path, [5; 2 * 4096 + 1]).unwrap();
    let input = Input::read(&path).unwrap();
    let devices = [DeviceType::Private, DeviceType::Coherent].map(Ivshmem::of_type).to_vec();
    let machine = MachineOptions { devices, ..MachineOptions::default() };
    let options = Options {
        kernel: None,
        input: None,
        machine: machine.clone(),
        json: None,
        timeout: Duration::from_secs(1),
        inject: None,
        trace: Trace::Off,
        trace_out: None,
        strict: true,
        verbose: false,
        debugger: None,
    };
    let mut summary = Summary::new(&input, &machine, &options);
    summary.homecomings = 1;
    summary.rounds = 2;
    for (device, pages) in summary.devices.iter_mut().zip([2, 1]) {
        (device.verified, device.inverted, device.came_home) = (pages, pages, pages);
    }
    summary.transformed([2, 1].into_iter());
    summary.device_outcome(0, 2, 2).unwrap();
    summary.device_outcome(1, 1, 1).unwrap();
    summary.cpu_outcome(0, CpuSummary { faults: 2, ipis: 0, flushes: 1 }).unwrap();
    summary.seen_waiting = 1;
    summary.seen_swapped = 4;
    summary.stayed("device-full", 1);
    summary.hash_after = Some(input.inverted_hash());
    summary.stale_bytes = Some(0);
    let (cpus, pages, rounds) = (1, 3, 2);
    let outcome = Outcome { cpus, pages, rounds, migrated: 3, faults: 2, returned: 3, ..Outcome::default() };
    summary.outcome = Some(Outcome { swapped_out: 4, lost_homecomings: 1, ..outcome });
    summary
}

#[test]
fn every_number_that_differs_is_noticed() {
    assert!(good().check().is_ok());
    type Change = (&'static str, fn(&mut Summary));
    let changes: [Change; 24] = [
        ("count of pages", |s| s.outcome.as_mut().unwrap().pages = 4),
        ("CPUs", |s| s.outcome.as_mut().unwrap().cpus = 2),
        ("rounds", |s| s.rounds = 3),
        ("CPUs' counts of faults", |s| s.per_cpu[0].faults = 1),
        ("CPUs with counts", |s| s.per_cpu.push(CpuSummary { faults: 0, ipis: 0, flushes: 0 })),
        ("migrated", |s| s.outcome.as_mut().unwrap().migrated = 2),
        ("reached a device", |s| s.devices[1].migrated = Some(2)),
        ("found on it", |s| s.devices[0].verified = 3),
        ("found on the device", |s| s.devices.truncate(1)),
        ("device's count", |s| s.devices[0].transformed = 3),
        ("found changed", |s| s.devices[1].inverted = 2),
        ("came home from a device", |s| s.devices[1].returned = Some(0)),
        ("found home from a device", |s| s.devices[0].came_home = 1),
        ("faults", |s| s.outcome.as_mut().unwrap().faults = 3),
        ("returned", |s| s.outcome.as_mut().unwrap().returned = 2),
        ("told or lost in strict mode", |s| s.homecomings = 2),
        ("stayed", |s| s.stayed("pinned", 1)),
        ("at once on the swap disk", |s| s.outcome.as_mut().unwrap().swapped_out = 3),
        ("RAM frames missing at the end is -1", |s| s.outcome.as_mut().unwrap().leaked_frames = -1),
        ("device frames", |s| s.outcome.as_mut().unwrap().leaked_device_frames = 1),
        ("swap slots", |s| s.outcome.as_mut().unwrap().leaked_swap_slots = 1),
        ("table frames", |s| s.outcome.as_mut().unwrap().leaked_table_frames = 1),
        ("bytes left", |s| s.stale_bytes = Some(1)),
        ("SHA-256", |s| s.hash_after = Some(s.hash)),
    ];
    for (part, change) in changes {
        let mut summary = good();
        change(&mut summary);
        let text = summary.check().unwrap_err().to_string();
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn what_is_missing_is_noticed() {
    let changes: [fn(&mut Summary); 4] =
        [|s| s.outcome = None, |s| s.hash_after = None, |s| s.stale_bytes = None, |s| s.devices[1].returned = None];
    for change in changes {
        let mut summary = good();
        change(&mut summary);
        assert!(matches!(summary.check(), Err(Failure::Incomplete(_))));
    }
}

#[test]
fn the_object_has_the_keys_that_readers_expect() {
    let json = good().to_json().to_string();
    let read: tinyjson::JsonValue = json.parse().unwrap();
    assert_eq!(*read["input"]["bytes"].get::<f64>().unwrap(), 8193.0);
    assert_eq!(*read["stayed"]["device-full"].get::<f64>().unwrap(), 1.0);
    assert_eq!(*read["leaked"]["table_frames"].get::<f64>().unwrap(), 0.0);
    assert_eq!(read["sha256_after"], read["sha256_expected"]);
    assert!(*read["verified"].get::<bool>().unwrap());
    assert!(json.starts_with(r#"{"input":{"bytes":8193,"sha256":""#), "{json}");
    let mut failed = good();
    failed.error = Some("it \"broke\"".into());
    failed.outcome = None;
    let read: tinyjson::JsonValue = failed.to_json().to_string().parse().unwrap();
    assert!(!*read["verified"].get::<bool>().unwrap() && read["faults"].is_null());
}
