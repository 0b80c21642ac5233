//! What the same operations cost elsewhere, and what they shall cost here: non-copy instructions per page.
//!
//! The peer is Linux 6.12 in its leanest configuration with `test_hmm`, mitigations off, one CPU, its driver's verification read
//! removed, on QEMU 7.2 TCG with `-icount shift=0`; where that was not measured, Linux 6.1.192 under the same conditions. The copy
//! is taken out of both. The floor is a bare C program without locks or accounting.

/// One operation elsewhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Peer {
    /// The operation.
    pub name: &'static str,
    /// Pages of a call, where the number matters.
    pub pages: Option<u64>,
    /// What Linux takes; `None` where nobody has measured it.
    pub linux: Option<u64>,
    /// What Ferry shall take at most.
    pub goal: Option<u64>,
}

const fn peer(name: &'static str, pages: Option<u64>, linux: Option<u64>, goal: Option<u64>) -> Peer {
    Peer { name, pages, linux, goal }
}

/// What is known. For `boot`: instructions in all; the peer's are from reset to the first useful output.
const PEERS: &[Peer] = &[
    peer("migrate_to_device", Some(1), Some(6_760), Some(600)),
    peer("migrate_to_device", Some(512), Some(2_850), Some(100)),
    peer("fault_back_read", None, Some(5_980), Some(150)),
    peer("fault_back_write", None, Some(5_980), Some(150)),
    peer("migrate_to_system", Some(4096), Some(2_697), Some(100)),
    peer("touch_write", None, Some(2_050), Some(120)),
    peer("cow_fault", None, Some(1_950), Some(200)),
    peer("unmap", None, Some(477), Some(40)),
    peer("protect", None, Some(81), Some(15)),
    peer("boot", None, Some(1_190_000_000), Some(2_000_000)),
];

/// What is known about an operation on so many pages.
pub fn of(name: &str, pages: u64) -> Option<&'static Peer> {
    PEERS.iter().find(|peer| peer.name == name && peer.pages.is_none_or(|known| known == pages))
}
