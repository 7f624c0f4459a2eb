//! Stops and starts region servers by way of `dsc start`, for workloads about what happens then.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::Value;

/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often a state is asked for.
const PAUSE: Duration = Duration::from_millis(20);

/// The shape of each region that dsc serves.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct RegionInfo {
    /// In bytes.
    pub block_size: u64,
    /// In blocks.
    pub blocks_per_extent: u64,
    /// How many.
    pub extent_count: u32,
}

/// A client of the control server.
#[derive(Clone, Debug)]
pub struct Dsc {
    server: String,
    agent: ureq::Agent,
}

impl Dsc {
    /// At `IP:PORT`, or at a URL.
    pub fn new(address: &str) -> Self {
        let address = address.trim_end_matches('/');
        let server = if address.starts_with("http://") {
            address.to_owned()
        } else {
            format!("http://{address}")
        };
        let agent = ureq::Agent::config_builder()
            .timeout_global(Some(PATIENCE))
            .http_status_as_error(false)
            .build()
            .into();
        Self { server, agent }
    }

    fn get(&self, path: &str) -> Result<Value, String> {
        let at = |error: &dyn std::fmt::Display| format!("dsc at {}{path}: {error}", self.server);
        let mut response = self
            .agent
            .get(format!("{}{path}", self.server))
            .call()
            .map_err(|error| at(&format!("{error}; is `dsc start` running there?")))?;
        let body = response
            .body_mut()
            .read_to_string()
            .map_err(|error| at(&error))?;
        if !response.status().is_success() {
            return Err(at(&format!("{}: {body}", response.status())));
        }
        serde_json::from_str(&body).map_err(|error| at(&error))
    }

    fn post(&self, path: &str) -> Result<(), String> {
        let at = |error: &dyn std::fmt::Display| format!("dsc at {}{path}: {error}", self.server);
        let response = self
            .agent
            .post(format!("{}{path}", self.server))
            .send_empty()
            .map_err(|error| at(&error))?;
        if response.status().is_success() {
            Ok(())
        } else {
            Err(at(&response.status()))
        }
    }

    /// The shape of each region.
    pub fn region_info(&self) -> Result<RegionInfo, String> {
        serde_json::from_value(self.get("/regioninfo")?)
            .map_err(|error| format!("dsc at {}/regioninfo: {error}", self.server))
    }

    /// The ports of all region servers, in order.
    pub fn ports(&self) -> Result<Vec<u16>, String> {
        let count = self.get("/regioncount")?.as_u64().unwrap_or_default();
        let port = |cid| {
            let port = self.get(&format!("/port/cid/{cid}"))?;
            let port = port.as_u64().and_then(|port| u16::try_from(port).ok());
            port.ok_or_else(|| format!("dsc at {}: no port of {cid}", self.server))
        };
        (0..count.min(1000)).map(port).collect()
    }

    /// The number under which dsc knows a region server.
    pub fn find(&self, target: SocketAddr) -> Result<usize, String> {
        let place = self.ports()?.iter().position(|port| *port == target.port());
        place.ok_or_else(|| format!("dsc at {} runs no region server for {target}", self.server))
    }

    fn wait_for(&self, cid: usize, state: &str) -> Result<(), String> {
        let begin = Instant::now();
        loop {
            let found = self.get(&format!("/state/cid/{cid}"))?;
            if found.as_str() == Some(state) {
                return Ok(());
            }
            if begin.elapsed() > PATIENCE {
                return Err(format!(
                    "dsc at {}: downstairs {cid} is {found}, expected {state:?}",
                    self.server
                ));
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Stops one, and waits until it is gone. It must not have restart enabled.
    pub fn stop(&self, cid: usize) -> Result<(), String> {
        self.post(&format!("/disablerestart/cid/{cid}"))?;
        self.post(&format!("/stop/cid/{cid}"))?;
        self.wait_for(cid, "exit")
    }

    /// Starts one, and waits until it runs.
    pub fn start(&self, cid: usize) -> Result<(), String> {
        self.post(&format!("/start/cid/{cid}"))?;
        self.wait_for(cid, "running")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_enough() {
        assert_eq!(Dsc::new("127.0.0.1:9998").server, "http://127.0.0.1:9998");
        assert_eq!(Dsc::new("http://[::1]:1/").server, "http://[::1]:1");
    }
}
