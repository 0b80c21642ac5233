//! A model of the protocol, in which every interleaving is tried.
//!
//! The schedules run the real source and try some interleavings of it. This is the other way round: a small machine, the protocol
//! written down once more ([`step`]), and every order in which 3 CPUs can take its steps on 3 pages.
//!
//! ```text
//!   cast: who does what ──▶ first state ──▶ steps ──▶ states ... until nobody has anything left to do
//!                                             └─▶ in each: no store lost, nothing stale, one owner, nobody stuck
//! ```
//!
//! [`broken`] has protocols with a mistake in them, to see that the model can fail.
pub mod broken;
mod hardware;
mod moving;
pub mod property;
pub mod state;
pub mod step;
mod unmapping;

use std::time::{Duration, Instant};

use stateright::{Checker, HasDiscoveries, Model, Property};

use broken::Broken;
use state::{State, Task};
use step::{Action, Protocol};

/// Who does what: two tasks and a number of stores for each CPU.
pub type Cast = ([[Option<Task>; 2]; 3], [u8; 3]);

/// The casts that are checked.
pub const CASTS: [Cast; 5] = {
    use Task::{Migrate, Pin, Reenter, Return, Unmap};
    [
        ([[Some(Migrate), None], [None; 2], [None; 2]], [0, 2, 1]),
        ([[Some(Migrate), None], [None; 2], [Some(Migrate), None]], [0, 1, 0]),
        ([[Some(Migrate), Some(Return)], [None; 2], [Some(Unmap), None]], [0, 1, 0]),
        ([[Some(Migrate), None], [Some(Reenter), None], [Some(Pin), None]], [0, 1, 0]),
        ([[Some(Migrate), None], [Some(Unmap), None], [Some(Pin), None]], [0, 1, 1]),
    ]
};

/// The model: casts, and the protocol that they follow.
#[derive(Clone, Debug)]
pub struct Explorer {
    casts: Vec<Cast>,
    protocol: Protocol,
}

impl Model for Explorer {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        self.casts.iter().map(|(tasks, stores)| hardware::first(*tasks, *stores)).collect()
    }

    fn actions(&self, _state: &State, actions: &mut Vec<Action>) {
        actions.extend(Protocol::actions());
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        self.protocol.after(state, action)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("no store is lost", |_, state| property::no_store_is_lost(state)),
            Property::always("no translation is stale", |_, state| property::no_translation_is_stale(state)),
            Property::always("frames have one owner", |_, state| property::frames_have_one_owner(state)),
            Property::always("free device frames are zero", |_, state| property::free_device_frames_are_zero(state)),
            Property::always("nobody waits for ever", |model: &Self, state| {
                property::nobody_waits_for_ever(model.protocol, state)
            }),
            Property::always("nothing is left over", |_, state| property::nothing_is_left_over(state)),
        ]
    }
}

/// A property that does not hold, and how to get there.
#[derive(Clone, Debug)]
pub struct Violation {
    /// The property.
    pub property: &'static str,
    /// Who does what.
    pub cast: String,
    /// The steps from the first state on: who did what, and where that CPU stood then.
    pub steps: Vec<String>,
}

/// What the checker found.
#[derive(Clone, Debug)]
pub struct Checked {
    /// Different states.
    pub states: usize,
    /// Steps from state to state.
    pub transitions: usize,
    /// What does not hold, if anything.
    pub violation: Option<Violation>,
    /// How long it took.
    pub time: Duration,
}

/// Checks every interleaving of `casts`, by the protocol or one with a mistake in it.
pub fn check(casts: &[Cast], broken: Option<Broken>) -> Checked {
    let start = Instant::now();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let model = Explorer { casts: casts.to_vec(), protocol: Protocol { broken } };
    let checker = model.checker().threads(threads).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let violation =
        checker.discoveries().into_iter().next().map(|(property, path)| violation(property, &path.into_vec()));
    Checked {
        states: checker.unique_state_count(),
        transitions: checker.state_count() - casts.len(),
        violation,
        time: start.elapsed(),
    }
}

fn violation(property: &'static str, path: &[(State, Option<Action>)]) -> Violation {
    let cast = path.first().map(|(state, _)| {
        let cores = state.cores.iter().enumerate();
        let each = cores.map(|(cpu, core)| {
            let tasks: Vec<_> = core.tasks.iter().flatten().map(|task| format!("{task:?}")).collect();
            format!("CPU {cpu}: {} and {} stores", tasks.join(", "), core.stores)
        });
        each.collect::<Vec<_>>().join("; ")
    });
    let step = |(state, action): &(State, Option<Action>)| {
        let action = (*action)?;
        let at = match action {
            Action::Go(cpu) => format!(": {:?}", state.cores[usize::from(cpu)].step),
            _ => String::new(),
        };
        Some(format!("{action:?}{at}"))
    };
    Violation { property, cast: cast.unwrap_or_default(), steps: path.iter().filter_map(step).collect() }
}
