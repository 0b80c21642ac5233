//! Finds QEMU and checks that it is one that works.
use std::fmt;
use std::io;
use std::process::{Command, Stdio};

/// The program's name; it is looked for in `PATH`.
pub const PROGRAM: &str = "qemu-system-x86_64";

/// The oldest QEMU that was tried.
pub const OLDEST: Version = Version { major: 7, minor: 2 };

/// How to get it on the distributions whose package manager `run.sh` can drive.
pub const INSTALL: &str = "apt-get install --no-install-recommends qemu-system-x86";

/// Major and minor version.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Version {
    major: u32,
    minor: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Why there is no usable QEMU.
#[derive(Debug, thiserror::Error)]
pub enum QemuError {
    /// It is not installed.
    #[error("{PROGRAM} is not installed; on Debian and Ubuntu: {INSTALL}")]
    Missing,
    /// It cannot be executed.
    #[error("cannot run {PROGRAM}: {0}; reinstall it with: {INSTALL}")]
    Broken(io::Error),
    /// It runs but does not say its version.
    #[error("{PROGRAM} --version says '{0}', which names no version; reinstall it with: {INSTALL}")]
    NoVersion(String),
    /// It is too old.
    #[error("{PROGRAM} is version {0}, but Ferry needs {OLDEST} or newer; update it with: {INSTALL}")]
    TooOld(Version),
}

/// A QEMU that can be used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Qemu {
    /// The first line of what it says about itself.
    pub banner: String,
}

impl Qemu {
    /// Looks for QEMU in `PATH` and asks for its version.
    ///
    /// # Errors
    /// [`QemuError`] where it is missing, does not run or is too old.
    pub fn find() -> Result<Self, QemuError> {
        let output = Command::new(PROGRAM).arg("--version").stdin(Stdio::null()).output();
        let output = output.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => QemuError::Missing,
            _ => QemuError::Broken(error),
        })?;
        Self::from_banner(&String::from_utf8_lossy(&output.stdout))
    }

    fn from_banner(text: &str) -> Result<Self, QemuError> {
        let banner = text.lines().next().unwrap_or_default().to_owned();
        match version(&banner) {
            None => Err(QemuError::NoVersion(banner)),
            Some(version) if version < OLDEST => Err(QemuError::TooOld(version)),
            Some(_) => Ok(Self { banner }),
        }
    }

    /// Its version, for people.
    pub fn version(&self) -> &str {
        self.banner.split_once("version ").map_or("", |(_, rest)| rest.split(' ').next().unwrap_or(rest))
    }
}

fn version(banner: &str) -> Option<Version> {
    let (_, rest) = banner.split_once("version ")?;
    let mut numbers = rest.split(|character: char| !character.is_ascii_digit());
    Some(Version { major: numbers.next()?.parse().ok()?, minor: numbers.next()?.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_the_banner() {
        for (banner, word) in [
            ("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)", "7.2.22"),
            ("QEMU emulator version 8.2.2 (Debian 1:8.2.2+ds-0ubuntu1)\nCopyright", "8.2.2"),
            ("QEMU emulator version 10.0.0", "10.0.0"),
        ] {
            assert_eq!(Qemu::from_banner(banner).unwrap().version(), word);
        }
    }

    #[test]
    fn old_and_foreign_programs_are_refused() {
        let old = Qemu::from_banner("QEMU emulator version 6.2.0 (Debian 1:6.2+dfsg-2ubuntu6)");
        assert_eq!(
            old.unwrap_err().to_string().split(';').next(),
            Some("qemu-system-x86_64 is version 6.2, but Ferry needs 7.2 or newer")
        );
        for banner in ["", "hello", "QEMU emulator version seven"] {
            assert!(matches!(Qemu::from_banner(banner), Err(QemuError::NoVersion(_))), "{banner}");
        }
    }
}
