//! What became of a mutant.
use std::fmt;
use std::time::{Duration, Instant};

use super::catalogue::Mutant;
use crate::json::Json;

/// Who saw a mutant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Killer {
    /// This test failed.
    Test(String),
    /// This test did not end.
    Hang(String),
    /// The program, or the kernel, ended during this test.
    Abort(String),
}

/// What became of a mutant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fate {
    /// Somebody saw it.
    Killed(Killer),
    /// Nobody did, and nobody says why.
    Survived,
    /// Nobody did, for this reason.
    Equivalent(String),
    /// Somebody saw it, whose list says that nobody can.
    Contradicted(Killer),
}

/// A mutant that was run.
#[derive(Clone, Debug)]
pub struct Verdict<'m> {
    /// Which.
    pub mutant: &'m Mutant,
    /// How it ended.
    pub fate: Fate,
    /// How long that took.
    pub took: Duration,
}

impl Fate {
    /// The fate of a mutant that was seen by `killer`, or by nobody.
    pub fn of(mutant: &Mutant, killer: Option<Killer>) -> Self {
        match (killer, &mutant.equivalent) {
            (Some(killer), None) => Self::Killed(killer),
            (Some(killer), Some(_)) => Self::Contradicted(killer),
            (None, Some(why)) => Self::Equivalent(why.clone()),
            (None, None) => Self::Survived,
        }
    }

    /// One word for it.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Killed(_) => "killed",
            Self::Survived => "survived",
            Self::Equivalent(_) => "equivalent",
            Self::Contradicted(_) => "contradicted",
        }
    }

    /// Whether somebody saw it, as its list says.
    pub fn is_killed(&self) -> bool {
        matches!(self, Self::Killed(_))
    }

    /// Whether it was seen because something did not end.
    pub fn is_by_hang(&self) -> bool {
        matches!(self, Self::Killed(Killer::Hang(_)) | Self::Contradicted(Killer::Hang(_)))
    }

    /// Whether nobody saw it, as its list says.
    pub fn is_equivalent(&self) -> bool {
        matches!(self, Self::Equivalent(_))
    }
}

impl fmt::Display for Killer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Test(test) => write!(f, "by {test}"),
            Self::Hang(test) => write!(f, "by timeout in {test}"),
            Self::Abort(test) => write!(f, "by the end of the program in {test}"),
        }
    }
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Killed(killer) => killer.fmt(f),
            Self::Equivalent(why) => f.write_str(why),
            Self::Survived => f.write_str("no test sees it: write one, or say in its list why none can (`equivalent`)"),
            Self::Contradicted(killer) => {
                write!(f, "its list says that no test can see it, but it was killed {killer}")
            }
        }
    }
}

impl<'m> Verdict<'m> {
    /// Of a mutant that was run from `started` until now.
    pub fn of(mutant: &'m Mutant, killer: Option<Killer>, started: Instant) -> Self {
        Self { mutant, fate: Fate::of(mutant, killer), took: started.elapsed() }
    }

    /// The same for programs.
    pub fn to_json(&self) -> Json {
        let Self { mutant, fate, took } = self;
        Json::object([
            ("name", mutant.name.clone().into()),
            ("file", mutant.file.clone().into()),
            ("breaks", mutant.breaks.clone().into()),
            ("why", mutant.why.clone().into()),
            ("fate", fate.word().to_owned().into()),
            ("detail", fate.to_string().into()),
            ("ms", (took.as_millis() as u64).into()),
        ])
    }
}
