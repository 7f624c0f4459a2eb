//! The command line, and the volume that it asks for.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Parser;
use crucible_upstairs::crypt::KeyText;
use crucible_upstairs::drive::Setup;
use crucible_upstairs::options::{CrucibleOpts, VolumeConstructionRequest};
use crucible_upstairs::volume::Volume;
use uuid::Uuid;

/// Serve a volume on three region servers to NBD clients
#[derive(Debug, Parser)]
#[command(version)]
pub(crate) struct Arguments {
    /// A region server (ADDRESS:PORT); three times
    #[arg(
        short,
        long,
        value_name = "ADDRESS",
        required_unless_present = "volume"
    )]
    target: Vec<SocketAddr>,

    /// A file with a volume construction request (JSON) in the place of targets
    #[arg(long, value_name = "FILE", conflicts_with_all = ["target", "key", "key_file", "cert_pem", "degraded"])]
    volume: Option<PathBuf>,

    /// The key of an encrypted volume: 32 bytes in base64. Others can see it in the list of processes
    #[arg(short, long, value_name = "BASE64")]
    key: Option<KeyText>,

    /// A file with the key
    #[arg(long, value_name = "FILE", conflicts_with = "key")]
    key_file: Option<PathBuf>,

    /// The generation to activate with: higher than at each activation before
    #[arg(short, long = "gen", value_name = "NUMBER")]
    generation: Option<u64>,

    /// The id of the volume; the same each time it is attached
    #[arg(
        long,
        value_name = "UUID",
        default_value = "00000000-0000-0000-0000-000000000001"
    )]
    id: Uuid,

    /// Where NBD clients connect. There is no authentication
    #[arg(short, long, value_name = "ADDRESS", default_value = "127.0.0.1:10809")]
    pub(crate) listen: SocketAddr,

    /// A unix socket in the place of an address
    #[arg(long, value_name = "PATH", conflicts_with = "listen")]
    pub(crate) unix: Option<PathBuf>,

    /// The name of the export; the empty name leads to it as well
    #[arg(long, value_name = "NAME", default_value = "")]
    pub(crate) export_name: String,

    /// Most NBD clients at a time
    #[arg(long, value_name = "COUNT", default_value_t = 16)]
    pub(crate) connections: usize,

    /// Serve reads only; the region servers must run read-only
    #[arg(short, long)]
    pub(crate) read_only: bool,

    /// Activate with two of three region servers; the third joins by repair
    #[arg(long)]
    degraded: bool,

    /// Seconds without a flush after which one is made
    #[arg(long, value_name = "SECONDS")]
    flush_timeout: Option<f32>,

    /// TLS: our certificate chain
    #[arg(long, value_name = "FILE", requires_all = ["key_pem", "root_cert_pem"])]
    cert_pem: Option<PathBuf>,

    /// TLS: our private key
    #[arg(long, value_name = "FILE", requires_all = ["cert_pem", "root_cert_pem"])]
    key_pem: Option<PathBuf>,

    /// TLS: the certificate that theirs must come from
    #[arg(long, value_name = "FILE", requires_all = ["cert_pem", "key_pem"])]
    root_cert_pem: Option<PathBuf>,

    /// Where to answer GET /info, /work and /metrics
    #[arg(long, value_name = "ADDRESS")]
    control: Option<SocketAddr>,

    /// Say on stdout what happens, as one JSON object a line
    #[arg(long)]
    pub(crate) json: bool,
}

impl Arguments {
    /// `None`: that of the construction request.
    pub(crate) fn generation(&self) -> Option<u64> {
        match (&self.volume, self.generation) {
            (_, Some(generation)) => Some(generation),
            (Some(_), None) => None,
            (None, None) => Some(1),
        }
    }

    /// The volume, not active yet.
    pub(crate) fn volume(&self) -> Result<Volume, crate::Failure> {
        let read = |path: &PathBuf| {
            std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
        };
        if let Some(path) = &self.volume {
            let request: VolumeConstructionRequest = serde_json::from_str(&read(path)?)
                .map_err(|error| format!("{}: {error}", path.display()))?;
            return Ok(Volume::build(&request)?);
        }
        let targets = self.target.as_slice().try_into().map_err(|_| {
            format!(
                "-t: three region servers are needed, {} are given",
                self.target.len()
            )
        })?;
        let mut opts = CrucibleOpts::new(self.id, targets);
        opts.key = match (&self.key, &self.key_file) {
            (Some(key), _) => Some(key.clone()),
            (None, Some(path)) => Some(read(path)?.into()),
            (None, None) => None,
        };
        opts.read_only = self.read_only;
        opts.degraded_activation = self.degraded;
        opts.flush_timeout = self.flush_timeout;
        opts.control = self.control;
        let text = |path: &Option<PathBuf>| path.as_ref().map(|p| p.display().to_string());
        opts.cert_pem = text(&self.cert_pem);
        opts.key_pem = text(&self.key_pem);
        opts.root_cert_pem = text(&self.root_cert_pem);
        let generation = self.generation().unwrap_or(1);
        Ok(Volume::region(Setup::new(&opts, None, generation)?)?)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_flags_of_the_reference_are_understood() {
        let line = "nbd -t 127.0.0.1:1 -t 127.0.0.1:2 -t 127.0.0.1:3 -g 7 -k AAAA";
        let arguments = parse(line).unwrap();
        assert_eq!(
            (arguments.target.len(), arguments.generation()),
            (3, Some(7))
        );
        let error = arguments.volume().unwrap_err().to_string();
        assert!(error.contains("key has 3 bytes"), "{error}");
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        for line in [
            "nbd",
            "nbd -t 127.0.0.1:1 --volume x.json",
            "nbd -t 127.0.0.1:1 --cert-pem x",
            "nbd -t 127.0.0.1:1 -k a --key-file b",
            "nbd -t nonsense",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
        let two = parse("nbd -t 127.0.0.1:1 -t 127.0.0.1:2").unwrap();
        assert!(
            two.volume()
                .unwrap_err()
                .to_string()
                .contains("2 are given")
        );
    }
}
