//! The shell: a person says line by line what shall happen to pages, and sees what became of them.
//!
//! ```text
//!   host: editing, history, completion ──ToShell::Line──▶ split into words ─▶ one command ─▶ FromKernel::Text, line by line
//!         reads the next line          ◀─FromKernel::Prompt { done }──────────┘
//! ```
//!
//! In reading order: [`ferry_protocol::shell`] (the commands, as both sides know them), `desk` (what lies between two commands),
//! `pages` (commands that change something), `look` (commands that show something), `step` (phase by phase), `events`.
//!
//! Everything a command does it does through the memory manager's public calls; a load or store that cannot succeed is an error
//! of that command ([`crate::arch::probe`]), and the shell goes on.
#![forbid(unsafe_code)]
mod desk;
mod error;
mod events;
mod look;
mod pages;
mod spaces;
mod step;

pub use error::ShellError;

use crate::arch::machine::losing_flushes;
use crate::disk;
use crate::link::{self, NoAnswer};
use crate::memory::{device, manager};
use alloc::format;
use alloc::vec::Vec;
use core::time::Duration;
use desk::Desk;
use ferry_mm::space::{Access, Term};
use ferry_protocol::exit::ExitCode;
use ferry_protocol::link::{FrameBuffer, FromKernel, ToShell};
use ferry_protocol::shell::{COMMANDS, find};

/// How long a person may think.
const PATIENCE: Duration = Duration::from_secs(24 * 60 * 60);

/// How a command ends; what it prints it prints itself.
type CommandResult = Result<(), ShellError>;

/// Does what it is told, line by line, until there is nothing more; then counts what is left over.
pub fn run() -> ExitCode {
    // Both before there is an address space, and before anything is counted.
    let attached = disk::attach().map_err(ShellError::from).and_then(|_| Ok(device::all()?));
    let before = manager().census();
    let result = attached.and_then(Desk::new).and_then(|mut desk| {
        let result = talk(&mut desk);
        desk.clear()?;
        Ok(result)
    });
    match result {
        Ok(Ok(())) if manager().census() == before => ExitCode::Success,
        Ok(Ok(())) => {
            log::error!("something is left over: before {before:?}, now {:?}", manager().census());
            ExitCode::Failed
        }
        Ok(Err(error)) => {
            log::error!("{error}");
            ExitCode::HostTimeout
        }
        Err(error) => {
            log::error!("{error}");
            ExitCode::Failed
        }
    }
}

/// Takes lines until there are no more.
fn talk(desk: &mut Desk) -> Result<(), NoAnswer> {
    let mut done = true;
    loop {
        link::send(&FromKernel::Prompt { done });
        let mut frame = FrameBuffer::default();
        let line = match link::wait_for_line(&mut frame, PATIENCE)? {
            ToShell::Line(line) => line,
            ToShell::End => return Ok(()),
        };
        let line = line.split_once('#').map_or(line, |(line, _)| line);
        let words: Vec<&str> = line.split_whitespace().collect();
        done = true;
        let Some((&name, rest)) = words.split_first() else { continue };
        if name == "quit" {
            return Ok(());
        }
        let result = if desk.broken { losing_flushes(|| execute(desk, name, rest)) } else { execute(desk, name, rest) };
        if let Err(error) = &result {
            desk.say(format_args!("error: {error}"));
        }
        done = result.is_ok();
        // Expectations are about the command before them, several about the same one.
        if name == "expect" { desk.forget_printed() } else { desk.turn_page(done) }
    }
}

/// Does one command.
fn execute(desk: &mut Desk, name: &str, rest: &[&str]) -> CommandResult {
    let Some(command) = find(name) else { return Err(ShellError::Unknown { word: name.into() }) };
    match (command.name, rest) {
        ("map", [name, size]) => pages::map(desk, name, size, "rw"),
        ("map", [name, size, rights]) => pages::map(desk, name, size, rights),
        ("touch", [place, count @ ..]) if count.len() < 2 => pages::touch(desk, place, count.first().copied()),
        ("read", [place]) => pages::read(desk, place),
        ("write", [place, value, count @ ..]) if count.len() < 2 => {
            pages::write(desk, place, value, count.first().copied())
        }
        ("migrate", [place]) => pages::migrate(desk, place, None, None),
        ("migrate", [place, "to", device]) => pages::migrate(desk, place, None, Some(device)),
        ("migrate", [place, count]) => pages::migrate(desk, place, Some(count), None),
        ("migrate", [place, count, "to", device]) => pages::migrate(desk, place, Some(count), Some(device)),
        ("back", [place, count @ ..]) if count.len() < 2 => pages::back(desk, place, count.first().copied()),
        ("fork", []) => spaces::fork(desk),
        ("space", []) => spaces::list(desk),
        ("space", [number]) => spaces::go_to(desk, number),
        ("destroy", [number]) => spaces::destroy(desk, number),
        ("swap", [place, count @ ..]) if count.len() < 2 => pages::swap(desk, place, count.first().copied()),
        ("pin", [place]) => pages::pin(desk, place, Term::Short),
        ("pin", [place, "long"]) => pages::pin(desk, place, Term::Long),
        ("unpin", []) => pages::list_pins(desk),
        ("unpin", [number]) => pages::unpin(desk, number),
        ("protect", [place, rights]) => pages::protect(desk, place, None, rights),
        ("protect", [place, count, rights]) => pages::protect(desk, place, Some(count), rights),
        ("discard", [place, count @ ..]) if count.len() < 2 => pages::discard(desk, place, count.first().copied()),
        ("unmap", [place, count @ ..]) if count.len() < 2 => pages::unmap(desk, place, count.first().copied()),
        ("maps", []) => look::maps(desk),
        ("pt", [place]) => look::walk(desk, place),
        ("pt", [place, count]) => look::leaves(desk, place, count),
        ("frames", []) => look::count_frames(desk),
        ("frames", [place]) => look::frame(desk, place),
        ("device", []) => look::devices(desk),
        ("device", ["invert", place, count @ ..]) if count.len() < 2 => {
            pages::invert(desk, place, count.first().copied())
        }
        ("evict", device) if device.len() < 2 => pages::evict(desk, device.first().copied()),
        ("stats", []) => look::statistics(desk),
        ("trace", [name, rest @ ..]) => events::trace(desk, name, rest),
        ("inject", [kind]) => pages::inject(desk, kind, "1"),
        ("inject", [kind, count]) => pages::inject(desk, kind, count),
        ("step", ["migrate", place, count @ ..]) if count.len() < 2 => {
            step::migrate(desk, place, count.first().copied())
        }
        ("step", ["fault", place]) => step::fault(desk, place, Access::Read),
        ("step", ["fault", place, "write"]) => step::fault(desk, place, Access::Write),
        ("break", ["flush"]) => spaces::break_flush(desk),
        ("repair", ["flush"]) => spaces::repair_flush(desk),
        ("expect", ["error", text @ ..]) => expect_refusal(desk, &text.join(" ")),
        ("expect", [_, ..]) => expect(desk, &rest.join(" ")),
        ("help", []) => help(desk),
        ("help", [name]) => help_with(desk, name),
        _ => Err(ShellError::Usage(command)),
    }
}

fn expect(desk: &Desk, text: &str) -> CommandResult {
    if desk.last.contains(text) { Ok(()) } else { Err(ShellError::NotPrinted { text: text.into() }) }
}

fn expect_refusal(desk: &Desk, text: &str) -> CommandResult {
    if desk.refused && desk.last.contains(text) { Ok(()) } else { Err(ShellError::NotRefused { text: text.into() }) }
}

fn help(desk: &mut Desk) -> CommandResult {
    for command in COMMANDS {
        let usage = format!("{} {}", command.name, command.arguments);
        desk.say(format_args!("{usage:<48} {}", command.summary));
    }
    desk.say(format_args!(
        "WHERE is a name, a name and an offset (heap+0x1000), or an address. `help COMMAND` says more."
    ));
    Ok(())
}

fn help_with(desk: &mut Desk, name: &str) -> CommandResult {
    let Some(command) = find(name) else { return Err(ShellError::Unknown { word: name.into() }) };
    desk.say(format_args!("{} {}", command.name, command.arguments));
    desk.say(format_args!("  {}", command.summary));
    desk.say(format_args!("  {}", command.help));
    Ok(())
}
