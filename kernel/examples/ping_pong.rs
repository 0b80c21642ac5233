//! Pages go to the device, are changed there, and come home by themselves when somebody touches them.
//!
//!     ./run.sh run ping_pong
//!
//! Look at where page 0 is: the load that brings it home is an ordinary load. Nobody calls anything.
#![no_std]
#![no_main]
use ferry_kernel::prelude::*;

experiment!(main);

const PAGES: u64 = 4;
const ROUNDS: u8 = 3;

fn main(lab: &Lab) -> Outcome {
    let device = lab.device()?;
    let memory = lab.memory(PAGES)?;
    for page in 0..PAGES {
        memory.store(page, 10 + page as u8);
    }
    for round in 1..=ROUNDS {
        assert_eq!(memory.migrate_to(device)?.moved, PAGES);
        let away = memory.place(0);
        assert_eq!(memory.invert_on(device)?, PAGES);

        let faults = lab.manager().statistics().read().special_faults;
        let value = memory.load(0);
        println!("round {round}: page 0 was on {away}, now in {}, and holds {value}", memory.place(0));
        assert!(away.is_device() && memory.place(0).is_ram());
        assert_eq!(lab.manager().statistics().read().special_faults, faults + 1, "one fault brings one page home");

        // The others are touched here, one after the other.
        for page in 0..PAGES {
            let first = 10 + page as u8;
            assert_eq!(memory.load(page), if round % 2 == 1 { !first } else { first });
        }
    }
    Ok(())
}
