//! Making a unix socket, without taking it away from anybody.

use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use thiserror::Error;

/// What a socket is for; complaints name it and the key that moves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The serial console.
    Serial,
    /// The control socket.
    Control,
}

impl Purpose {
    const fn name(self) -> &'static str {
        match self {
            Self::Serial => "serial console",
            Self::Control => "control socket",
        }
    }

    const fn key(self) -> &'static str {
        match self {
            Self::Serial => "serial",
            Self::Control => "control",
        }
    }
}

/// Why a socket cannot be made.
#[derive(Debug, Error)]
pub enum SocketError {
    /// Somebody answers there.
    #[error(
        "{} {path:?}: another process listens there; stop it, or give this machine another path with [main] {:?}",
        purpose.name(),
        purpose.key()
    )]
    InUse {
        /// What for.
        purpose: Purpose,
        /// The path.
        path: PathBuf,
    },
    /// Something else has that name.
    #[error(
        "{} {path:?}: something that is no socket is there; move it away, or give another path with [main] {:?}",
        purpose.name(),
        purpose.key()
    )]
    NotASocket {
        /// What for.
        purpose: Purpose,
        /// The path.
        path: PathBuf,
    },
    /// The system refuses.
    #[error("{} {path:?}: {source}", purpose.name())]
    System {
        /// What for.
        purpose: Purpose,
        /// The path.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// A listening socket whose file goes when it does.
#[derive(Debug)]
pub(crate) struct BoundSocket {
    pub(crate) listener: UnixListener,
    path: PathBuf,
    /// Device and inode of our file: a file that somebody put in its place is not ours to remove.
    identity: Option<(u64, u64)>,
}

impl BoundSocket {
    /// Listens at `path`. A socket that nobody listens on any more is replaced.
    pub(crate) fn bind(purpose: Purpose, path: &Path) -> Result<Self, SocketError> {
        let system = |source| SocketError::System {
            purpose,
            path: path.to_owned(),
            source,
        };
        match std::fs::symlink_metadata(path) {
            Ok(metadata) if !metadata.file_type().is_socket() => {
                return Err(SocketError::NotASocket {
                    purpose,
                    path: path.to_owned(),
                });
            }
            Ok(_) => match UnixStream::connect(path) {
                Ok(_) => {
                    return Err(SocketError::InUse {
                        purpose,
                        path: path.to_owned(),
                    });
                }
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                    std::fs::remove_file(path).map_err(system)?;
                }
                // Not ours to judge: a full backlog, for instance, is a live socket.
                Err(error) => return Err(system(error)),
            },
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(system(error)),
        }
        let listener = UnixListener::bind(path).map_err(system)?;
        Ok(Self {
            listener,
            path: path.to_owned(),
            identity: identity(path),
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for BoundSocket {
    fn drop(&mut self) {
        if self.identity.is_some() && identity(&self.path) == self.identity {
            // If it cannot be removed, the next machine replaces it.
            std::fs::remove_file(&self.path).ok();
        }
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    let metadata = std::fs::symlink_metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("trivet-{name}-{}", std::process::id()))
    }

    #[test]
    fn a_live_socket_is_refused_and_a_dead_one_replaced() {
        let path = place("socket");
        let first = BoundSocket::bind(Purpose::Control, &path).unwrap();
        assert!(matches!(
            BoundSocket::bind(Purpose::Control, &path),
            Err(SocketError::InUse { .. })
        ));
        drop(first);
        assert!(!path.exists());
        // A listener that ends without cleaning up leaves its file behind.
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let second = BoundSocket::bind(Purpose::Control, &path).unwrap();
        drop(second);
        assert!(!path.exists());
    }

    #[test]
    fn other_files_are_left_alone() {
        let path = place("file");
        std::fs::write(&path, "precious").unwrap();
        let refused = BoundSocket::bind(Purpose::Control, &path).unwrap_err();
        assert!(matches!(refused, SocketError::NotASocket { .. }));
        let text = refused.to_string();
        assert!(text.contains("[main] \"control\""), "{text}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_file_that_took_the_sockets_place_stays() {
        let path = place("replaced");
        let bound = BoundSocket::bind(Purpose::Control, &path).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "new").unwrap();
        drop(bound);
        assert!(path.exists());
        std::fs::remove_file(&path).unwrap();
    }
}
