//! QEMU's command line.
//!
//! ```text
//!  standard input ◀──▶ COM2, the link     (one end of a socket pair, descriptor 0)
//!  standard output ◀── COM1, the console
//!  standard error ◀─── QEMU's own messages
//!  a file ◀─────────── COM3, the event stream, where there is one
//! ```
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use ferry_protocol::{exit, fw_cfg};

use super::debugger::Debugger;
use crate::device::Ivshmem;
use crate::machine::{Accelerator, MachineOptions};
use crate::swap::{SECTORS_PER_SLOT, SwapFault};

/// I/O ports that `isa-debug-exit` occupies: one 32-bit register.
const DEBUG_EXIT_BYTES: u32 = 4;

/// Name of the bus behind the bridge.
const BRIDGE: &str = "bridge";

/// Name of the swap disk's image, and of the throttle of a stalled one.
const SWAP: &str = "swap";
const THROTTLE: &str = "stall";

/// The files that a machine is made of.
#[derive(Clone, Copy, Debug)]
pub struct Files<'a> {
    /// The PVH loader.
    pub loader: &'a Path,
    /// The kernel.
    pub kernel: &'a Path,
    /// Guest RAM.
    pub memory: &'a Path,
    /// Memory behind the BAR and its size in bytes, of each device.
    pub vram: &'a [(PathBuf, u64)],
    /// The swap disk's image, where there is one.
    pub swap: Option<&'a Path>,
    /// Where the event stream goes, if the machine has one.
    pub trace: Option<&'a Path>,
    /// The options text.
    pub options: &'a Path,
    /// The input, if there is one.
    pub input: Option<&'a Path>,
    /// The socket for gdb, where the machine shall wait for it.
    pub gdb: Option<&'a Path>,
}

/// How instructions are counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Clock<'a> {
    /// The guest's clock advances by one with each instruction.
    Instructions,
    /// The same, and an observer counts beside it.
    Observed {
        /// The observer, a plugin of QEMU.
        referee: &'a Path,
        /// Where it writes what it has seen.
        seen: &'a Path,
        /// Whether it notes where the instructions are, which is slow.
        profile: bool,
    },
}

/// What to boot, and with what.
#[derive(Clone, Copy, Debug)]
pub struct Boot<'a> {
    /// The machine.
    pub machine: &'a MachineOptions,
    /// The PVH loader.
    pub loader: &'a Path,
    /// The kernel.
    pub kernel: &'a Path,
    /// The kernel's options, as text (see [`ferry_protocol::options`]).
    pub options: &'a str,
    /// The file that the kernel finds as [`fw_cfg::INPUT`].
    pub input: Option<&'a Path>,
    /// Whether to print QEMU's command line.
    pub verbose: bool,
    /// The debugger that starts and watches the machine, if one does.
    pub debugger: Option<&'a Debugger>,
    /// How instructions are counted, where they are.
    pub clock: Option<Clock<'a>>,
}

/// The arguments for `machine` made of `files`.
pub fn arguments(machine: &MachineOptions, files: &Files, clock: Option<Clock>) -> Vec<OsString> {
    let mut line = Line::default();
    line.pair("-machine", "q35,memory-backend=ram");
    line.pair("-cpu", "max");
    line.pair(
        "-accel",
        match machine.accelerator {
            Accelerator::Tcg => "tcg",
            Accelerator::Kvm => "kvm",
        },
    );
    instruments(&mut line, clock);
    line.pair("-smp", machine.cpus.to_string());
    line.pair("-m", format!("{}M", machine.memory.bytes() >> 20));
    line.pair("-object", memory_file("ram", machine.memory.bytes(), files.memory));
    line.flag("-nodefaults").flag("-no-user-config").flag("-no-reboot").pair("-display", "none");
    line.pair("-chardev", "file,id=console,path=/dev/stdout").pair("-serial", "chardev:console");
    line.pair("-chardev", "socket,id=link,fd=0").pair("-serial", "chardev:link");
    if let Some(trace) = files.trace {
        let mut text = OsString::from("file,id=trace,path=");
        text.push(escaped(trace));
        line.pair("-chardev", text).pair("-serial", "chardev:trace");
    }
    line.pair("-device", format!("isa-debug-exit,iobase={:#x},iosize={DEBUG_EXIT_BYTES:#x}", exit::PORT));
    devices(&mut line, &machine.devices, files.vram);
    if let Some(image) = files.swap {
        swap_disk(&mut line, machine.swap_fault, image);
    }
    line.pair("-fw_cfg", fw_cfg_file(fw_cfg::OPTIONS, files.options));
    if let Some(input) = files.input {
        line.pair("-fw_cfg", fw_cfg_file(fw_cfg::INPUT, input));
    }
    if let Some(socket) = files.gdb {
        let mut text = OsString::from("unix:");
        text.push(escaped(socket));
        text.push(",server=on,wait=off");
        line.flag("-S").pair("-gdb", text);
    }
    line.pair("-kernel", files.loader).pair("-initrd", files.kernel);
    line.0
}

#[derive(Default)]
struct Line(Vec<OsString>);

impl Line {
    fn flag(&mut self, name: &str) -> &mut Self {
        self.0.push(name.into());
        self
    }

    fn pair(&mut self, name: &str, value: impl Into<OsString>) -> &mut Self {
        self.0.push(name.into());
        self.0.push(value.into());
        self
    }
}

/// The devices, each over its own memory. A device's number is in its memory, so their order here is free.
fn devices(line: &mut Line, devices: &[Ivshmem], memories: &[(PathBuf, u64)]) {
    let mut numbered: Vec<_> = devices.iter().zip(memories).enumerate().collect();
    // Before QEMU chooses any slot, those that were chosen are taken.
    numbered.sort_by_key(|(_, (device, _))| (device.behind_bridge, device.slot.is_none()));
    let mut bridged = false;
    for (number, (device, (path, bytes))) in numbered {
        line.pair("-object", memory_file(&format!("vram{number}"), *bytes, path));
        let mut text = format!("ivshmem-plain,memdev=vram{number}");
        if device.behind_bridge {
            if !bridged {
                line.pair("-device", format!("pci-bridge,id={BRIDGE},chassis_nr=1,shpc=off"));
            }
            bridged = true;
            text += &format!(",bus={BRIDGE}");
        }
        if let Some(slot) = device.slot {
            // QEMU reads the slot as hexadecimal.
            text += &format!(",addr={slot:x}");
        }
        line.pair("-device", text);
    }
}

/// The clock that counts instructions, and who watches it.
fn instruments(line: &mut Line, clock: Option<Clock>) {
    if clock.is_some() {
        // A tick for each instruction, and no wait for real time while every CPU is halted.
        line.pair("-icount", "shift=0,sleep=off");
    }
    if let Some(Clock::Observed { referee, seen, profile }) = clock {
        let mut text = OsString::from("file=");
        text.push(escaped(referee));
        text.push(",seen=");
        text.push(escaped(seen));
        text.push(if profile { ",profile=on" } else { "" });
        line.pair("-plugin", text);
    }
}

/// The disk, with a layer below it that fails where the kernel's reaction shall be seen.
fn swap_disk(line: &mut Line, fault: Option<SwapFault>, image: &Path) {
    let raw = format!("driver=raw,node-name={SWAP}");
    let failing = |kind, slot| {
        let (rule, sector) = ("file.inject-error.0", slot * SECTORS_PER_SLOT);
        format!("{raw},file.driver=blkdebug,{rule}.event=none,{rule}.iotype={kind},{rule}.sector={sector}")
    };
    let (layers, file) = match fault {
        None => (raw, "file"),
        Some(SwapFault::Read(slot)) => (failing("read", slot), "file.image"),
        Some(SwapFault::Write(slot)) => (failing("write", slot), "file.image"),
        Some(SwapFault::Stall) => {
            // At a byte per second, what follows the first access waits for minutes at least.
            line.pair("-object", format!("throttle-group,id={THROTTLE},x-bps-total=1"));
            (format!("driver=throttle,node-name={SWAP},throttle-group={THROTTLE},file.driver=raw"), "file.file")
        }
    };
    let mut text = OsString::from(format!("{layers},{file}.driver=file,{file}.filename="));
    text.push(escaped(image));
    line.pair("-blockdev", text);
    // QEMU stops the machine when the host's file system is full, unless told to let the guest know.
    line.pair("-device", format!("virtio-blk-pci,drive={SWAP},disable-legacy=on,rerror=report,werror=report"));
}

fn memory_file(id: &str, bytes: u64, path: &Path) -> OsString {
    let mut text = OsString::from(format!("memory-backend-file,id={id},size={bytes},share=on,mem-path="));
    text.push(escaped(path));
    text
}

fn fw_cfg_file(name: &str, path: &Path) -> OsString {
    let mut text = OsString::from(format!("name={name},file="));
    text.push(escaped(path));
    text
}

/// `path` with its commas doubled, as QEMU's option lists want them.
fn escaped(path: &Path) -> OsString {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let mut bytes = Vec::with_capacity(path.as_os_str().len());
    for byte in path.as_os_str().as_bytes() {
        bytes.push(*byte);
        if *byte == b',' {
            bytes.push(b',');
        }
    }
    OsString::from_vec(bytes)
}

/// `program` with `arguments` as a person would type it into a shell.
pub fn shown(program: &str, arguments: &[OsString]) -> String {
    let mut text = program.to_owned();
    for argument in arguments {
        let argument = argument.to_string_lossy();
        let plain = |character: char| character.is_ascii_alphanumeric() || "-_=,./:".contains(character);
        if !argument.is_empty() && argument.chars().all(plain) {
            text += &format!(" {argument}");
        } else {
            text += &format!(" '{}'", argument.replace('\'', r"'\''"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(devices: &[Ivshmem], input: Option<&str>) -> String {
        let machine = MachineOptions { devices: devices.to_vec(), ..MachineOptions::default() };
        line_of(&machine, input, None)
    }

    fn line_of(machine: &MachineOptions, input: Option<&str>, swap: Option<&str>) -> String {
        let vram: Vec<_> = (0..machine.devices.len()).map(|i| (format!("memory{i}").into(), 64 << 20)).collect();
        let files = Files {
            loader: Path::new("loader"),
            kernel: Path::new("kernel"),
            memory: Path::new("ram"),
            vram: &vram,
            swap: swap.map(Path::new),
            trace: None,
            options: Path::new("options"),
            input: input.map(Path::new),
            gdb: None,
        };
        shown("qemu", &arguments(machine, &files, None))
    }

    #[test]
    fn devices_are_where_they_were_asked_for() {
        assert!(!line(&[], None).contains("ivshmem"));
        let at = |behind_bridge, slot| Ivshmem { behind_bridge, slot, ..Ivshmem::default() };
        assert!(line(&[at(false, None)], None).contains(" -device ivshmem-plain,memdev=vram0 -fw_cfg"));
        let line = line(&[at(true, None), at(false, None), at(true, Some(17)), at(false, Some(1))], None);
        let devices: Vec<_> = line.split(" -device ").skip(2).map(|part| part.split(' ').next().unwrap()).collect();
        assert_eq!(
            devices,
            [
                "ivshmem-plain,memdev=vram3,addr=1",
                "ivshmem-plain,memdev=vram1",
                "pci-bridge,id=bridge,chassis_nr=1,shpc=off",
                "ivshmem-plain,memdev=vram2,bus=bridge,addr=11",
                "ivshmem-plain,memdev=vram0,bus=bridge"
            ]
        );
        assert!(line.contains("id=vram2,size=67108864,share=on,mem-path=memory2 "), "{line}");
    }

    #[test]
    fn the_swap_disk_fails_where_it_was_asked_to() {
        assert!(!line(&[], None).contains("virtio-blk"));
        let disk = |swap_fault| line_of(&MachineOptions { swap_fault, ..MachineOptions::default() }, None, Some("a,b"));
        let plain = disk(None);
        assert!(plain.contains(" -blockdev driver=raw,node-name=swap,file.driver=file,file.filename=a,,b -device "));
        assert!(plain.contains("virtio-blk-pci,drive=swap,disable-legacy=on"), "{plain}");
        assert!(
            disk(Some(SwapFault::Write(7))).contains("iotype=write,file.inject-error.0.sector=56,file.image.driver=")
        );
        assert!(disk(Some(SwapFault::Stall)).contains("throttle-group=stall,file.driver=raw,file.file.driver=file,"));
    }

    #[test]
    fn commas_in_paths_are_doubled_and_spaces_quoted() {
        let line = line(&[], Some("a,b c"));
        assert!(line.contains("'name=opt/ferry/input,file=a,,b c'"), "{line}");
        assert_eq!(shown("q", &["it's".into(), "".into()]), r"q 'it'\''s' ''");
    }
}
