//! Mutants that only a booted kernel shows: one image, in which the number of each is written before it boots.
use std::path::PathBuf;
use std::time::Duration;

use object::{Object, ObjectSection, ObjectSymbol};

use super::tree::Tree;
use super::verdict::Killer;
use crate::artifacts::{self, Artifact, ArtifactError};
use crate::error::{Error, Refusal};
use crate::kernel_tests::{Outcome, Session, Suite};
use crate::run_dir::RunDir;

/// The variable in the image, one in each crate that has mutants.
const SYMBOL: &str = "FERRY_MUTANT";

/// How long a test may take; ten times what the slowest needs on an idle machine.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The test kernel of a copy.
pub struct Kernel {
    loader: PathBuf,
    image: Vec<u8>,
    /// Where in the image the number goes.
    places: Vec<usize>,
    /// Where images go that are booted.
    directory: RunDir,
    names: Vec<String>,
}

impl Kernel {
    /// Builds it, and asks it for its tests.
    ///
    /// # Errors
    /// Where it does not build or boot.
    pub fn build(tree: &Tree) -> Result<Self, Error> {
        let [loader] = artifacts::build([Artifact::Loader]).map_err(Refusal::from)?;
        let mut command = tree.cargo("build");
        command.args(["--quiet", artifacts::MESSAGES]).args(Artifact::TestKernel.arguments());
        let programs = artifacts::run_cargo(command).map_err(Refusal::from)?;
        let path = programs.into_iter().find(|program| program.name == Artifact::TestKernel.binary());
        let path =
            path.ok_or(ArtifactError::NotNamed(Artifact::TestKernel.binary().to_owned())).map_err(Refusal::from)?.path;
        let image = std::fs::read(&path).map_err(|source| Refusal::Output { path: path.clone(), source })?;
        let directory = RunDir::create(image.len() as u64).map_err(|error| Refusal::Start(error.into()))?;
        let places = places(&image);
        let names = Suite::of(loader.clone(), path)?.list()?;
        Ok(Self { loader, image, places, directory, names })
    }

    /// The tests whose names contain one of these.
    pub fn tests(&self, filters: &[&str]) -> Vec<String> {
        let chosen = self.names.iter().filter(|name| filters.iter().any(|filter| name.contains(filter)));
        chosen.cloned().collect()
    }

    /// Boots it as the mutant with this number, or as what the source says, and runs these tests until one fails.
    ///
    /// # Errors
    /// Where the image cannot be written or QEMU does not start.
    pub fn run(&self, number: Option<usize>, tests: &[String]) -> Result<Option<Killer>, Refusal> {
        let path = self.directory.file("kernel");
        let output = |source| Refusal::Output { path: path.clone(), source };
        std::fs::write(&path, self.with(number)).map_err(output)?;
        let suite = Suite::of(self.loader.clone(), path.clone())?.with_timeout(TIMEOUT);
        let mut session = Session::new(suite, tests.iter().cloned());
        for test in tests {
            let Err(report) = session.run(test) else { continue };
            return Ok(Some(match report.outcome {
                Outcome::NotBooted(why) => return Err(Refusal::QemuGaveUp(why)),
                Outcome::Hung(_) => Killer::Hang(test.clone()),
                Outcome::Lost(_) | Outcome::Confused(_) => Killer::Abort(test.clone()),
                _ => Killer::Test(test.clone()),
            }));
        }
        Ok(None)
    }

    fn with(&self, number: Option<usize>) -> Vec<u8> {
        let mut image = self.image.clone();
        let bytes = number.map_or(u64::MAX, |number| number as u64).to_le_bytes();
        for &place in &self.places {
            image[place..place + bytes.len()].copy_from_slice(&bytes);
        }
        image
    }
}

/// Where in an ELF image the variables are that hold the number.
fn places(image: &[u8]) -> Vec<usize> {
    let Ok(file) = object::File::parse(image) else { return Vec::new() };
    let variables = file.symbols().filter(|symbol| symbol.name().is_ok_and(|name| name.contains(SYMBOL)));
    let place = |symbol: object::Symbol| {
        let section = file.section_by_index(symbol.section_index()?).ok()?;
        let (start, bytes) = section.file_range()?;
        let inside =
            symbol.address().checked_sub(section.address()).filter(|&inside| inside + symbol.size() <= bytes)?;
        usize::try_from(start + inside).ok()
    };
    variables.filter_map(place).collect()
}
