//! The devices as the user asks for them: where each sits, how the CPU reaches its memory, and what it does wrong.
use std::str::FromStr;

use ferry_device::DeviceType;
use ferry_device_model::Misbehaviour;

/// The most devices of a machine; the kernel's memory manager has a table of this size.
pub const MOST_DEVICES: usize = ferry_mm::manager::MAX_DEVICES;

/// Slots that a device may take on a PCI bus; 0 and 31 hold functions of the chip set on the root bus.
const SLOTS: std::ops::RangeInclusive<u8> = 1..=30;

/// A device: its type, its place on the PCI bus, and how it shall misbehave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ivshmem {
    /// How the CPU may reach its memory.
    pub device_type: DeviceType,
    /// Behind a PCI-to-PCI bridge instead of on the root bus.
    pub behind_bridge: bool,
    /// The slot on its bus, or QEMU's choice.
    pub slot: Option<u8>,
    /// What it does wrong, for those who want to see the kernel notice.
    pub fault: Option<Misbehaviour>,
}

impl Default for Ivshmem {
    fn default() -> Self {
        Self::of_type(DeviceType::Private)
    }
}

impl Ivshmem {
    /// An obedient device of this type, at a place of QEMU's choice.
    pub const fn of_type(device_type: DeviceType) -> Self {
        Self { device_type, behind_bridge: false, slot: None, fault: None }
    }
}

/// What one `--device` asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeviceChoice {
    /// No device at all.
    None,
    /// Memory behind a BAR, with the model of `ferry` on its other side.
    Ivshmem(Ivshmem),
}

/// Why a text names no device.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DeviceError {
    /// No such kind.
    #[error("'{0}' is no device; choose none or ivshmem")]
    Kind(String),
    /// No such property, or a value it does not take.
    #[error(
        "'{0}' is no property of the device; it takes type=private, type=coherent, bus=root, bus=bridge, addr=1 to \
         addr=30 and fault={kinds}",
        kinds = fault_names()
    )]
    Property(String),
    /// No device, and one.
    #[error("--device none goes with no other --device; leave one of them out")]
    NoneAndSome,
}

impl FromStr for DeviceChoice {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Self, DeviceError> {
        let mut parts = text.split(',');
        match parts.next() {
            Some("none") if text == "none" => return Ok(Self::None),
            Some("ivshmem") => {}
            other => return Err(DeviceError::Kind(other.unwrap_or_default().to_owned())),
        }
        let mut device = Ivshmem::default();
        for part in parts {
            let wrong = || DeviceError::Property(part.to_owned());
            match part.split_once('=') {
                Some(("type", "private")) => device.device_type = DeviceType::Private,
                Some(("type", "coherent")) => device.device_type = DeviceType::Coherent,
                Some(("bus", "root")) => device.behind_bridge = false,
                Some(("bus", "bridge")) => device.behind_bridge = true,
                Some(("addr", slot)) => {
                    let slot = slot.parse().map_err(|_| wrong())?;
                    device.slot = Some(Some(slot).filter(|slot| SLOTS.contains(slot)).ok_or_else(wrong)?);
                }
                Some(("fault", name)) => {
                    let known = Misbehaviour::NAMES.iter().find(|(known, _)| *known == name);
                    device.fault = Some(known.ok_or_else(wrong)?.1);
                }
                _ => return Err(wrong()),
            }
        }
        Ok(Self::Ivshmem(device))
    }
}

/// The machine's devices, numbered from 0 in this order, from every `--device`.
///
/// # Errors
/// [`DeviceError::NoneAndSome`].
pub fn devices(choices: &[DeviceChoice]) -> Result<Vec<Ivshmem>, DeviceError> {
    let none = choices.contains(&DeviceChoice::None);
    let some = choices.iter().filter_map(|choice| match choice {
        DeviceChoice::None => None,
        DeviceChoice::Ivshmem(device) => Some(*device),
    });
    let some: Vec<_> = some.collect();
    if none && !some.is_empty() { Err(DeviceError::NoneAndSome) } else { Ok(some) }
}

fn fault_names() -> String {
    let names: Vec<_> = Misbehaviour::NAMES.iter().map(|(name, _)| *name).collect();
    names.join("|")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read() {
        let place =
            |behind_bridge, slot| Ok(DeviceChoice::Ivshmem(Ivshmem { behind_bridge, slot, ..Ivshmem::default() }));
        assert_eq!("none".parse(), Ok(DeviceChoice::None));
        assert_eq!("ivshmem".parse(), place(false, None));
        assert_eq!("ivshmem,type=private".parse(), place(false, None));
        assert_eq!("ivshmem,bus=bridge,addr=7".parse(), place(true, Some(7)));
        let coherent = Ivshmem::of_type(DeviceType::Coherent);
        assert_eq!("ivshmem,type=coherent".parse(), Ok(DeviceChoice::Ivshmem(coherent)));
        for bad in ["", "edu", "none,addr=3", "IVSHMEM"] {
            assert!(matches!(bad.parse::<DeviceChoice>(), Err(DeviceError::Kind(_))), "{bad}");
        }
        for bad in ["addr=0", "addr=31", "addr=-1", "addr", "bus=usb", "", "type=public", "fault=none"] {
            let text = format!("ivshmem,{bad}");
            assert_eq!(text.parse::<DeviceChoice>(), Err(DeviceError::Property(bad.to_owned())));
        }
    }

    #[test]
    fn none_stands_alone() {
        let one = DeviceChoice::Ivshmem(Ivshmem::default());
        assert_eq!(devices(&[DeviceChoice::None]), Ok(Vec::new()));
        assert_eq!(devices(&[one, one]), Ok(vec![Ivshmem::default(); 2]));
        assert_eq!(devices(&[one, DeviceChoice::None]), Err(DeviceError::NoneAndSome));
    }
}
