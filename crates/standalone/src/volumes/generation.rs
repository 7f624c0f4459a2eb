//! Generations that rise from start to start, kept in a small file beside the configuration.
//!
//! Region servers give a volume to whoever comes with the highest generation. So each start needs a number that was
//! never used before, also when two programs start at the same moment, and also after a power failure: the file is
//! replaced under a lock, and is on disk before its number is used.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// How long another program may hold the file; it needs a few milliseconds.
const LOCK_WITHIN: Duration = Duration::from_secs(5);
/// Between two tries.
const LOCK_AGAIN: Duration = Duration::from_millis(5);
/// The file has a line for each disk.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Why there is no generation. The last words are the way out.
#[derive(Debug, Error)]
pub enum GenerationError {
    /// The file cannot be kept.
    #[error(
        "cannot {action} {path:?}, where generations are kept: {source}; make it and its directory writable, or give \
         the key a number that rises at every start"
    )]
    File {
        /// `open`, `write`, ...
        action: &'static str,
        /// The file, or its directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Something else than what we write.
    #[error(
        "{path:?} is not as we wrote it: {reason}; remove it, and the next number is asked of the downstairs"
    )]
    Content {
        /// The file.
        path: PathBuf,
        /// In words.
        reason: String,
    },
    /// Somebody does not give it back.
    #[error("{path:?} has been locked by another program for {} s", LOCK_WITHIN.as_secs())]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// There is no higher number.
    #[error("all generations are used up")]
    Exhausted,
}

/// The file with the generations of one configuration.
#[derive(Clone, Debug)]
pub struct Generations {
    path: PathBuf,
}

#[derive(Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Content {
    #[serde(default)]
    generation: BTreeMap<String, u64>,
}

impl Generations {
    /// The file that belongs to the configuration `config`: `CONFIG.generations`.
    pub fn beside(config: &Path) -> Self {
        let mut path = config.as_os_str().to_owned();
        path.push(".generations");
        Self { path: path.into() }
    }

    /// A number for `disk` that is higher than `above` and than all that were given for it before, by whatever
    /// process. When it is returned, it is on disk.
    pub fn next(&self, disk: &str, above: u64) -> Result<u64, GenerationError> {
        let mut locked = self.lock()?;
        let mut content = self.read(&mut locked)?;
        let last = content.generation.get(disk).copied().unwrap_or(0);
        let next = last.max(above).checked_add(1);
        let next = next.ok_or(GenerationError::Exhausted)?;
        content.generation.insert(disk.to_owned(), next);
        self.write(&content)?;
        Ok(next)
    }

    /// The file, locked, and still the one of that name: who had the lock before us has replaced it.
    fn lock(&self) -> Result<File, GenerationError> {
        let begin = Instant::now();
        loop {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&self.path)
                .map_err(self.failed("open"))?;
            let locked = block::try_lock_file(&file).map_err(self.failed("lock"))?;
            if locked && self.is_at_its_path(&file)? {
                return Ok(file);
            }
            if begin.elapsed() > LOCK_WITHIN {
                return Err(GenerationError::Locked {
                    path: self.path.clone(),
                });
            }
            if !locked {
                std::thread::sleep(LOCK_AGAIN);
            }
        }
    }

    fn is_at_its_path(&self, file: &File) -> Result<bool, GenerationError> {
        let ours = file.metadata().map_err(self.failed("look at"))?;
        match std::fs::metadata(&self.path) {
            Ok(there) => Ok((there.dev(), there.ino()) == (ours.dev(), ours.ino())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(self.failed("look at")(error)),
        }
    }

    fn read(&self, file: &mut File) -> Result<Content, GenerationError> {
        let mut bytes = Vec::new();
        file.take(FILE_BYTES_MAX)
            .read_to_end(&mut bytes)
            .map_err(self.failed("read"))?;
        let damaged = |reason: String| GenerationError::Content {
            path: self.path.clone(),
            reason,
        };
        let text = String::from_utf8(bytes).map_err(|_| damaged("it is not UTF-8".to_owned()))?;
        toml::from_str(&text).map_err(|error| damaged(error.message().to_owned()))
    }

    /// Puts a new file in the place of the old one, on disk with its name.
    fn write(&self, content: &Content) -> Result<(), GenerationError> {
        let table = toml::to_string(content).map_err(|error| GenerationError::Content {
            path: self.path.clone(),
            reason: error.to_string(),
        })?;
        let text = format!(
            "# Generations of this configuration's volumes; each start uses the next one. Kept by standalone.\n{table}"
        );
        let mut new = self.path.clone().into_os_string();
        new.push(".new");
        let new = PathBuf::from(new);
        let written = File::create(&new).and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        });
        written.map_err(self.failed("write"))?;
        std::fs::rename(&new, &self.path).map_err(self.failed("replace"))?;
        let parent = match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        File::open(parent)
            .and_then(|directory| directory.sync_all())
            .map_err(self.failed("make durable"))
    }

    fn failed(&self, action: &'static str) -> impl Fn(io::Error) -> GenerationError + '_ {
        move |source| GenerationError::File {
            action,
            path: self.path.clone(),
            source,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Place(PathBuf);

    impl Place {
        fn new(name: &str) -> Self {
            let path =
                std::env::temp_dir().join(format!("trivet-gen-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn generations(&self) -> Generations {
            Generations::beside(&self.0.join("vm.toml"))
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).ok();
        }
    }

    #[test]
    fn numbers_rise_for_each_disk_and_pass_what_is_known() {
        let place = Place::new("rise");
        let generations = place.generations();
        assert_eq!(generations.next("root", 0).unwrap(), 1);
        assert_eq!(generations.next("root", 0).unwrap(), 2);
        assert_eq!(generations.next("a \"b\".c\n", 0).unwrap(), 1);
        assert_eq!(generations.next("root", 40).unwrap(), 41);
        assert_eq!(generations.next("root", 7).unwrap(), 42);
        assert_eq!(place.generations().next("a \"b\".c\n", 0).unwrap(), 2);
        let high = i64::MAX as u64;
        assert_eq!(generations.next("far", high).unwrap(), high + 1);
        assert_eq!(generations.next("far", 0).unwrap(), high + 2);
        assert!(matches!(
            generations.next("root", u64::MAX),
            Err(GenerationError::Exhausted)
        ));
    }

    #[test]
    fn programs_that_start_at_once_get_different_numbers() {
        let place = Place::new("race");
        let next = || {
            let generations = place.generations();
            (0..25)
                .map(|_| generations.next("root", 0).unwrap())
                .collect::<Vec<_>>()
        };
        let mut all: Vec<u64> = std::thread::scope(|scope| {
            let threads = [(); 4].map(|()| scope.spawn(next));
            threads
                .into_iter()
                .flat_map(|it| it.join().unwrap())
                .collect()
        });
        all.sort_unstable();
        assert_eq!(all, (1..=100).collect::<Vec<u64>>());
    }

    #[test]
    fn a_file_of_something_else_is_refused_and_left_alone() {
        let place = Place::new("else");
        let path = place.0.join("vm.toml.generations");
        for text in ["[generation]\nroot = -1\n", "dear diary", "[generations]\n"] {
            std::fs::write(&path, text).unwrap();
            let error = place.generations().next("root", 0).unwrap_err();
            assert!(error.to_string().contains("remove it"), "{error}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
    }

    #[test]
    fn a_place_that_cannot_be_written_is_told_with_the_way_out() {
        let generations = Generations::beside(Path::new("/dev/null/vm.toml"));
        let error = generations.next("root", 0).unwrap_err().to_string();
        assert!(error.contains("give the key a number"), "{error}");
    }
}
