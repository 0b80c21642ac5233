//! The options. `./run.sh explore --help` explains them; this program is not called by hand.
use std::fmt;

use crate::model::broken::Broken;

/// The seed of the first schedule, where nobody chooses one: the same schedules each time.
const DEFAULT_SEED: u64 = 1;

/// What to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Arguments {
    /// How many schedules.
    pub schedules: Option<u64>,
    /// The seed of the first.
    pub seed: u64,
    /// Only the model.
    pub model: bool,
    /// Not the model.
    pub no_model: bool,
    /// A mistake in the model's protocol.
    pub broken: Option<Broken>,
}

/// An option is wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum UsageError {
    /// There is no such option.
    Unknown(String),
    /// An option needs a value that it can use.
    Value(&'static str, Option<String>),
    /// The protocol has no such mistake.
    NoMistake(String),
}

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(option) => write!(f, "there is no option {option}; see ./run.sh explore --help"),
            Self::Value(option, None) => write!(f, "{option} needs a value"),
            Self::Value(option, Some(value)) => write!(f, "{option} needs a whole number, not {value}"),
            Self::NoMistake(name) => {
                let names: Vec<_> = Broken::ALL.iter().map(|(name, _)| *name).collect();
                write!(f, "the protocol has no mistake {name}; choose one of {}", names.join(", "))
            }
        }
    }
}

impl std::error::Error for UsageError {}

impl Arguments {
    /// What the options say.
    ///
    /// # Errors
    /// [`UsageError`], with the option.
    pub fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, UsageError> {
        let mut arguments = Self { schedules: None, seed: DEFAULT_SEED, model: false, no_model: false, broken: None };
        while let Some(word) = words.next() {
            match word.as_str() {
                "--model" => arguments.model = true,
                "--no-model" => arguments.no_model = true,
                "--schedules" => arguments.schedules = Some(number("--schedules", words.next())?),
                "--seed" => arguments.seed = number("--seed", words.next())?,
                "--broken" => {
                    let name = words.next().ok_or(UsageError::Value("--broken", None))?;
                    arguments.broken = Some(Broken::named(&name).ok_or(UsageError::NoMistake(name))?);
                    arguments.model = true;
                }
                _ => return Err(UsageError::Unknown(word)),
            }
        }
        Ok(arguments)
    }

    /// Whether the model is checked: where it is asked for, and where nothing is.
    pub fn explores_model(&self) -> bool {
        self.model || self.schedules.is_none() && !self.no_model
    }

    /// Whether schedules are explored: where they are asked for, and where nothing is.
    pub fn explores_schedules(&self) -> bool {
        !self.model || self.schedules.is_some()
    }
}

fn number(option: &'static str, value: Option<String>) -> Result<u64, UsageError> {
    let value = value.ok_or(UsageError::Value(option, None))?;
    value.parse().map_err(|_| UsageError::Value(option, Some(value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Arguments, UsageError> {
        Arguments::parse(line.split_whitespace().map(String::from))
    }

    #[test]
    fn without_options_both_are_explored() {
        let both = |line: &str| parse(line).map(|parsed| (parsed.explores_model(), parsed.explores_schedules()));
        assert_eq!(both(""), Ok((true, true)));
        assert_eq!(both("--seed 7"), Ok((true, true)));
        assert_eq!(both("--schedules 9"), Ok((false, true)));
        assert_eq!(both("--model"), Ok((true, false)));
        assert_eq!(both("--broken no-flush"), Ok((true, false)));
        assert_eq!(both("--model --schedules 9"), Ok((true, true)));
        assert_eq!(both("--no-model"), Ok((false, true)));
    }

    #[test]
    fn wrong_options_are_named() {
        assert_eq!(parse("--dance"), Err(UsageError::Unknown("--dance".into())));
        assert_eq!(parse("--seed"), Err(UsageError::Value("--seed", None)));
        assert_eq!(parse("--schedules many"), Err(UsageError::Value("--schedules", Some("many".into()))));
        assert_eq!(parse("--broken all"), Err(UsageError::NoMistake("all".into())));
    }
}
