//! The soak: all CPUs do random things to the same pages for as long as asked, and everything is checked all along.
//!
//! ```text
//!   round: stage ─▶ every CPU: 600 actions, each checked ─▶ all words, counts ─▶ torn down ─▶ census as before
//!            │ one of 16 actions at random: store, look, migrate, home, evict, swap, fork, pin, protect, unmap ... (`action`)
//!            └ seeds: of the run ─▶ of the round ─▶ of each CPU, so a round can be played again
//! ```
//!
//! In reading order: `ground` (the pages, and who may write what), `action` (what is done how often), `player` (one CPU's
//! part), `stage` (set up and torn down).
//!
//! The actions of a round follow from its seed; how the CPUs' actions meet does not, so a round that failed may have to be
//! played more than once.
#![forbid(unsafe_code)]
mod action;
mod error;
mod ground;
mod player;
mod random;
mod stage;

pub use error::{Expected, SoakError};

use crate::arch::cpus;
use crate::disk;
use crate::link;
use crate::memory::{self, device};
use action::{Action, Tally};
use alloc::format;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
use core::time::Duration;
use ferry_mm::machine::CpuId;
use ferry_protocol::exit::ExitCode;
use ferry_protocol::link::{FromHost, FromKernel, cut};
use ferry_protocol::options::Soak;
use player::Player;
use random::Random;
use stage::Stage;

/// Actions of each CPU in a round: some turns of its pages through devices and disk, and over in about a second.
const ACTIONS_PER_ROUND: u32 = 600;

/// The host decides at once.
const HOST_PATIENCE: Duration = Duration::from_secs(60);

/// Plays rounds until the host has had enough of them, or one does not hold.
pub fn run(soak: Soak) -> ExitCode {
    let (mut number, mut sum) = (soak.round, Tally::default());
    loop {
        match round(Random::descendant(soak.seed, number)) {
            Ok(tally) => sum += tally,
            Err(error) => {
                log::error!("{error}");
                let text = format!("{error}");
                link::send(&FromKernel::SoakViolation { round: number, text: cut(&text) });
                return ExitCode::Failed;
            }
        }
        link::send(&FromKernel::SoakRound { round: number, actions: sum.actions() });
        match link::wait(HOST_PATIENCE) {
            Ok(FromHost::Continue) => number += u64::from(!soak.again),
            Ok(FromHost::Stop) => break,
            Err(error) => {
                log::error!("{error}");
                return ExitCode::HostTimeout;
            }
        }
    }
    for (action, name, _) in Action::ALL {
        let (done, refused) = (sum.done[action as usize], sum.refused[action as usize]);
        link::send(&FromKernel::SoakCount { action: name, done, refused });
    }
    ExitCode::Success
}

fn round(seed: u64) -> Result<Tally, SoakError> {
    let _ = disk::attach()?;
    let devices = device::all()?;
    let before = memory::census();
    let stage = Stage::set(devices)?;
    let failed = AtomicBool::new(false);
    let play = |cpu: CpuId| {
        let mut player = Player::new(&stage, cpu, Random::descendant(seed, cpu.number() as u64))?;
        for _ in 0..ACTIONS_PER_ROUND {
            // The first violation is the one to tell; what follows it would hide it.
            if failed.load(Relaxed) {
                break;
            }
            player.act().inspect_err(|_| failed.store(true, Relaxed))?;
        }
        Ok::<_, SoakError>(player)
    };
    let mut sum = Tally::default();
    let mut players = Vec::new();
    for player in memory::run_in(stage.space, cpus::online(), play).into_iter().flatten() {
        players.push(player?);
    }
    for player in &players {
        player.check_all()?;
        sum += player.tally;
    }
    drop(players);
    ground::check_whole_pattern(stage.common)?;
    stage.check_counts()?;
    stage.strike()?;
    let after = memory::census();
    if after == before { Ok(sum) } else { Err(SoakError::Leak { before, after }) }
}
