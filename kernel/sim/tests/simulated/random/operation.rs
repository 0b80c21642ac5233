//! The operations, and how they are drawn.
use ferry_mm::migrate::{Busy, Foreign, Mode};
use ferry_mm::mirror::Want;
use ferry_mm::space::Protection;
use proptest::prelude::*;

use super::{CPUS, DEVICES, PAGES, SPACES, WORDS};

pub const PROTECTIONS: [Protection; 5] = [
    Protection::READ_WRITE,
    Protection::READ_WRITE.union(Protection::USER),
    Protection::READ,
    Protection::READ.union(Protection::USER),
    Protection::empty(),
];

/// One operation. Numbers are taken modulo what there is.
#[derive(Clone, Debug)]
pub enum Op {
    Enter { cpu: usize, space: usize },
    Leave { cpu: usize },
    Recreate { space: usize },
    Fork { cpu: usize, space: usize },
    Discard { cpu: usize, space: usize, first: usize, count: usize },
    Map { space: usize, first: usize, count: usize, protection: usize },
    MapShared { cpu: usize, space: usize, first: usize, count: usize, protection: usize },
    FreeLazily { cpu: usize, space: usize, first: usize, count: usize },
    Unmap { cpu: usize, space: usize, first: usize, count: usize },
    Protect { cpu: usize, space: usize, first: usize, count: usize, protection: usize },
    Store { cpu: usize, page: usize, word: usize, value: u64, bytes: usize },
    Load { cpu: usize, page: usize, word: usize },
    ToDevice { cpu: usize, space: usize, first: usize, count: usize, device: u8, how: How },
    Home { cpu: usize, space: usize, first: usize, count: usize },
    TakeAndDrop { cpu: usize, space: usize, first: usize, count: usize, phase: u8, device: u8 },
    Pin { cpu: usize, space: usize, page: usize, write: bool, long: bool },
    Evict { cpu: usize, device: u8 },
    Relocate { cpu: usize, space: usize, first: usize, count: usize, target: usize, empty: bool },
    Mirror { space: usize, first: usize, count: usize, device: u8 },
    RangeFault { cpu: usize, space: usize, first: usize, count: usize, want: Want },
    MakeExclusive { cpu: usize, space: usize, page: usize },
    DeviceAccess { space: usize, page: usize, word: usize, store: Option<u64> },
    Limit { space: usize, more: u64 },
    SwapOut { cpu: usize, space: usize, first: usize, count: usize },
    Unpin { which: usize },
    Inject { step: u8, count: u64 },
}

/// What a migration to a device is asked for beyond that.
#[derive(Clone, Copy, Debug)]
pub struct How {
    pub busy: Busy,
    pub foreign: Foreign,
    pub mode: Mode,
    /// The device that follows the space wants it.
    pub is_initiated: bool,
}

fn how() -> impl Strategy<Value = How> {
    let busy = prop_oneof![3 => Just(Busy::Skip), 1 => Just(Busy::Wait)];
    let foreign = prop_oneof![2 => Just(Foreign::Stay), 1 => Just(Foreign::ViaRam)];
    let mode = prop_oneof![Just(Mode::Stop), Just(Mode::Transactional)];
    (busy, foreign, mode, any::<bool>()).prop_map(|(busy, foreign, mode, is_initiated)| How {
        busy,
        foreign,
        mode,
        is_initiated,
    })
}

pub fn op() -> impl Strategy<Value = Op> {
    let (cpu, space, page) = (0..CPUS, 0..SPACES, 0..PAGES);
    let count = 1..=PAGES;
    let part = (cpu.clone(), space.clone(), page.clone(), count);
    let protection = 0..PROTECTIONS.len();
    prop_oneof![
        2 => (cpu.clone(), space.clone()).prop_map(|(cpu, space)| Op::Enter { cpu, space }),
        1 => cpu.clone().prop_map(|cpu| Op::Leave { cpu }),
        1 => space.clone().prop_map(|space| Op::Recreate { space }),
        3 => (cpu.clone(), space.clone()).prop_map(|(cpu, space)| Op::Fork { cpu, space }),
        1 => part.clone().prop_map(|(cpu, space, first, count)| Op::Discard { cpu, space, first, count: count.min(4) }),
        4 => (part.clone(), prop_oneof![3 => Just(0), 1 => protection.clone()])
            .prop_map(|((_, space, first, count), protection)| Op::Map { space, first, count, protection }),
        1 => (part.clone(), protection.clone()).prop_map(|((cpu, space, first, count), protection)| {
            Op::MapShared { cpu, space, first, count: count.min(3), protection }
        }),
        3 => part.clone().prop_map(|(cpu, space, first, count)| Op::FreeLazily { cpu, space, first, count }),
        2 => part.clone().prop_map(|(cpu, space, first, count)| Op::Unmap { cpu, space, first, count: count.min(4) }),
        3 => (part.clone(), protection).prop_map(|((cpu, space, first, count), protection)| {
            Op::Protect { cpu, space, first, count, protection }
        }),
        14 => (cpu.clone(), page.clone(), 0..WORDS, any::<u64>(), 1..=8_usize)
            .prop_map(|(cpu, page, word, value, bytes)| Op::Store { cpu, page, word, value, bytes }),
        8 => (cpu.clone(), page.clone(), 0..WORDS).prop_map(|(cpu, page, word)| Op::Load { cpu, page, word }),
        8 => (part.clone(), 0..DEVICES, how()).prop_map(|((cpu, space, first, count), device, how)| {
            Op::ToDevice { cpu, space, first, count, device, how }
        }),
        2 => (part.clone(), 0..=DEVICES)
            .prop_map(|((_, space, first, count), device)| Op::Mirror { space, first, count, device }),
        8 => (part.clone(), prop_oneof![Just(Want::Look), Just(Want::Read), Just(Want::Write)])
            .prop_map(|((cpu, space, first, count), want)| Op::RangeFault { cpu, space, first, count, want }),
        4 => (cpu.clone(), space.clone(), page.clone())
            .prop_map(|(cpu, space, page)| Op::MakeExclusive { cpu, space, page }),
        6 => (space.clone(), page.clone(), 0..WORDS, any::<Option<u64>>())
            .prop_map(|(space, page, word, store)| Op::DeviceAccess { space, page, word, store }),
        1 => (space.clone(), prop_oneof![2 => 0..6_u64, 1 => Just(u64::MAX)])
            .prop_map(|(space, more)| Op::Limit { space, more }),
        4 => part.clone().prop_map(|(cpu, space, first, count)| Op::Home { cpu, space, first, count }),
        5 => part.clone().prop_map(|(cpu, space, first, count)| Op::SwapOut { cpu, space, first, count }),
        4 => (part.clone(), 0..3_u8, 0..DEVICES).prop_map(|((cpu, space, first, count), phase, device)| {
            Op::TakeAndDrop { cpu, space, first, count, phase, device }
        }),
        3 => (cpu.clone(), space, page.clone(), any::<bool>(), any::<bool>())
            .prop_map(|(cpu, space, page, write, long)| Op::Pin { cpu, space, page, write, long }),
        2 => (cpu, 0..DEVICES).prop_map(|(cpu, device)| Op::Evict { cpu, device }),
        2 => (part, page, any::<bool>()).prop_map(|((cpu, space, first, count), target, empty)| {
            Op::Relocate { cpu, space, first, count: count.min(4), target, empty }
        }),
        2 => (0..4_usize).prop_map(|which| Op::Unpin { which }),
        2 => (0..5_u8, 1..6_u64).prop_map(|(step, count)| Op::Inject { step, count }),
    ]
}
