//! `ferry doctor`: what is installed, what is missing, what to run.
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::artifacts::cargo;
use crate::error::{Error, Refusal};
use crate::machine::MachineOptions;
use crate::qemu::Qemu;
use crate::qemu::debugger;
use crate::qemu::discover::{INSTALL, PROGRAM};
use crate::run_dir::RunDir;
use crate::screen::Screen;
use crate::size::Size;

/// QEMU's devices that the machine is made of.
const DEVICES: [&str; 4] = ["ivshmem-plain", "isa-debug-exit", "pci-bridge", "virtio-blk-pci"];

/// Width of the first column.
const NAME_WIDTH: usize = 16;

/// What a look at one thing found.
#[derive(Debug)]
enum Finding {
    /// It is there.
    Good(String),
    /// It is missing, and nothing works without it.
    Missing(String),
    /// It is missing, and one option does not work without it.
    Optional(String),
}

/// Prints a table of everything that Ferry needs.
///
/// # Errors
/// [`Refusal::Unfit`] where something is missing.
pub fn run() -> Result<(), Error> {
    let screen = Screen::new();
    let mut fit = true;
    for (name, finding) in [
        ("cargo", program(cargo().to_string_lossy().as_ref(), "install Rust from https://rustup.rs")),
        ("linker", program("cc", "apt-get install gcc libc6-dev")),
        ("readelf", program("readelf", "apt-get install binutils")),
        ("qemu", qemu()),
        ("qemu devices", devices()),
        ("room to run", room()),
        ("gdb", debugger()),
        ("chromium", browser()),
        ("kvm", kvm()),
    ] {
        let (mark, text) = match finding {
            Finding::Good(text) => ("ok", text),
            Finding::Optional(text) => ("--", text),
            Finding::Missing(text) => {
                fit = false;
                ("MISSING", text)
            }
        };
        screen.plain(format_args!("{name:NAME_WIDTH$}{mark:9}{text}"));
    }
    if fit { Ok(()) } else { Err(Refusal::Unfit.into()) }
}

fn output(name: &str, arguments: &[&str]) -> io::Result<String> {
    let output = Command::new(name).args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn program(name: &str, remedy: &str) -> Finding {
    match output(name, &["--version"]) {
        Ok(text) => Finding::Good(text.lines().next().unwrap_or("answers without a version").to_owned()),
        Err(error) => Finding::Missing(format!("{name} cannot be run ({error}); {remedy}")),
    }
}

fn qemu() -> Finding {
    match Qemu::find() {
        Ok(qemu) => Finding::Good(qemu.banner),
        Err(error) => Finding::Missing(error.to_string()),
    }
}

fn devices() -> Finding {
    let Ok(list) = output(PROGRAM, &["-device", "help"]) else {
        return Finding::Missing(format!("QEMU cannot be asked; {INSTALL}"));
    };
    let missing: Vec<_> = DEVICES.into_iter().filter(|name| !list.contains(&format!("\"{name}\""))).collect();
    match missing.is_empty() {
        true => Finding::Good(DEVICES.join(", ")),
        false => Finding::Missing(format!("this QEMU has no {}; {INSTALL}", missing.join(", "))),
    }
}

fn room() -> Finding {
    let needed = MachineOptions::default().backing_bytes();
    match RunDir::create(needed) {
        Ok(_) => Finding::Good(format!("{} for the default machine's memory", Size(needed))),
        Err(error) => Finding::Missing(error.to_string()),
    }
}

fn debugger() -> Finding {
    match output(debugger::PROGRAM, &["--version"]) {
        Ok(text) => Finding::Good(text.lines().next().unwrap_or("answers without a version").to_owned()),
        Err(error) => Finding::Optional(format!("{error}; only debug needs it: {}", debugger::INSTALL)),
    }
}

fn browser() -> Finding {
    match output("chromium", &["--version"]) {
        Ok(text) => Finding::Good(text.lines().next().unwrap_or("answers without a version").to_owned()),
        Err(error) => Finding::Optional(format!("{error}; only the report's tests need it: apt-get install chromium")),
    }
}

fn kvm() -> Finding {
    match std::fs::OpenOptions::new().read(true).write(true).open(Path::new("/dev/kvm")) {
        Ok(_) => Finding::Good("/dev/kvm can be opened; used only with --accel kvm".to_owned()),
        Err(error) => Finding::Optional(format!("/dev/kvm: {error}; only --accel kvm needs it")),
    }
}
